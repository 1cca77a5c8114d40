"""The study on calibration runs end to end, and measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("torch")
sys.path.insert(0, str(EXAMPLES))

from studies import rcfd_measure  # noqa: E402
from study_rcfd import tuned  # noqa: E402


@pytest.mark.long
def test_quick(tmp_path: Path) -> None:
    out = tmp_path / "rcfd.json"
    done = subprocess.run(
        [
            sys.executable, str(EXAMPLES / "study_rcfd.py"), "--quick", "--seeds", "1",
            "--workers", "1", "--work", str(tmp_path / "work"), "--out", str(out),
        ],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert out.with_suffix(".png").stat().st_size > 10_000
    found = {(line["task"], line["method"]) for line in report["over_seeds"]}
    tasks = {"likelihood", "sentiment", "preference", "preference + length"}
    methods = {"demonstrations", "initial model", "RCfD", "PPO"}
    assert found == {(task, method) for task in tasks for method in methods}
    assert {(line["method"], line["bonus"]) for line in report["exploit"]} == {
        ("PPO", 2.0), ("RCfD", 2.0), ("RCfD", 1.0),
    }  # fmt: skip
    for row in report["rows"]:
        assert "start" not in row and "demos" not in row  # paths of one machine
    for line in report["over_seeds"]:
        if line["method"] == "initial model":
            assert line["kl_prior"] == pytest.approx(0, abs=1e-4)
        if line["method"] == "demonstrations" and line["task"].startswith("preference"):
            assert line["judge"] == line["facts"] == 1.0  # they are the references
    # Rejection draws again until the reward calls a text positive.
    (praise,) = (
        line
        for line in report["over_seeds"]
        if (line["task"], line["method"]) == ("sentiment", "demonstrations")
    )
    assert praise["reward"] > 0


def test_a_policy_that_earns_what_demonstrations_earn() -> None:
    rng = np.random.default_rng(0)
    demo = rng.normal(size=400)
    row = rcfd_measure.rewarded({"raw/r": demo, "demo/r": demo}, ["r"])
    assert row["A"] == row["A_r"] == row["gap"] == 0
    shifted = rcfd_measure.rewarded({"raw/r": demo + 2, "demo/r": demo}, ["r"])
    assert shifted["A"] > 1 and shifted["gap"] == pytest.approx(2)
    assert shifted["reward"] - shifted["demo_reward"] == pytest.approx(2)


def test_share_between_prompts() -> None:
    rng = np.random.default_rng(0)
    prompt, demo = rng.normal(size=5000), np.zeros(10_000)
    # Two texts of each prompt; variance 1 of the prompt, 3 of the text: a quarter is between.
    raw = np.concatenate([prompt + rng.normal(scale=3**0.5, size=5000) for _ in range(2)])
    row = rcfd_measure.rewarded({"raw/r": raw, "demo/r": demo}, ["r"])
    assert row["between_prompts"] == pytest.approx(0.25, abs=0.05)


def test_tuned_leaves_out_what_has_no_penalty() -> None:
    def line(beta: float, a: float, judge: float) -> dict[str, object]:
        return {"task": "t", "method": "PPO", "beta": beta, "A": a, "judge": judge}

    lines = [line(0.0, 0.01, 1.0), line(0.1, 0.2, 0.7), line(1.0, 0.3, 0.8)]
    lines.append({"task": "t", "method": "RCfD", "beta": 0.0, "A": 0.0, "judge": 2.0})
    assert tuned(lines, "t", "A")["beta"] == 0.1
    assert tuned(lines, "t", "judge")["beta"] == 1.0
