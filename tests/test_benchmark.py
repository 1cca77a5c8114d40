"""The benchmark runs and reports every comparison; how fast things are is no matter of a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import text_envs
from text_envs.tasks.reviews import Reviews

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("benchmark") / "benchmark.json"
    command = [sys.executable, os.fspath(EXAMPLES / "benchmark.py"), "--quick", "--threads", "1"]
    subprocess.run([*command, "--out", os.fspath(out)], check=True, capture_output=True, text=True)
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.long
def test_every_part_says_where_and_how_it_was_measured(
    results: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(os.fspath(EXAMPLES))
    from benchmark import PARTS

    assert set(results) == set(PARTS)
    for part in results.values():
        assert {"command", "seed", "machine", "threads"} <= set(part)
        assert part["machine"]["cores"] == os.cpu_count()


@pytest.mark.parametrize(
    ("part", "pairs"),
    [
        (
            "env",
            {
                (ours, against)
                for ours in ("Gymnasium face", "SB3 face", "gymnasium.make")
                for against in ("bare numpy loop", "bare loop with infos", "SyncVectorEnv")
            },
        ),
        ("actions", {("step, action_mask", "step"), ("sample", "softmax, multinomial")}),
        (
            "rollout",
            {
                (ours, against)
                for ours in ("collector", "predict + step")
                for against in ("generate", "re-encoding")
            },
        ),
        ("update", {("PPO.train", "bare pass"), ("PPO.train", "stock PPO.train")}),
        (
            "control",
            {(ours, "plain LM training") for ours in ("DPG update", "RLOO update")},
        ),
        ("guided", {(ours, "PPO") for ours in ("PPO++", "AggreVaTeD")}),
        (
            "hindsight",
            {
                (ours, "plain LM training")
                for ours in ("checking, relabelling", "HIR update", "HIR update, entropy")
            },
        ),
        (
            "offline",
            {
                ("ILQL", "plain LM training"),
                ("ILQL joint", "plain LM training"),
                ("guided", "plain"),
                ("guided, clipped", "plain"),
            },
        ),
    ],
)
@pytest.mark.long
def test_every_comparison_is_there(results: Any, part: str, pairs: set[tuple[str, str]]) -> None:
    rows = results[part]["rows"]
    assert {(row["ours"], row["against"]) for row in rows} == pairs
    for row in rows:
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert min(row["speed"], row["other_speed"], row["rounds"]) > 0


@pytest.mark.long
def test_memory_reports_a_line_through_its_points(results: Any) -> None:
    if "points" not in results["memory"]:
        pytest.skip("needs Linux's /proc")
    assert all(point["peak_mib"] > 0 for point in results["memory"]["points"])
    assert {"kib_per_token", "r_squared"} <= set(results["memory"]["line"])


@pytest.mark.parametrize("kind", ["2% ends", "uniform"])
def test_the_bare_loop_does_what_the_environment_does(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison with a loop that does less would mean nothing."""
    monkeypatch.syspath_prepend(os.fspath(EXAMPLES))
    from benchmarks.env import BareLoop, random_actions

    task = Reviews(dataset=["a film about"])  # one prompt: restarts cannot differ
    env = text_envs.make_sb3("text_envs/Reviews-v0", 8, task=task)
    loop = BareLoop(task, 8, seed=0, with_infos=True)
    np.testing.assert_array_equal(env.reset(), loop.tokens)
    for actions in random_actions(kind, 60, 8, seed=1):
        obs, rewards, dones, infos = env.step(actions)
        other_obs, other_rewards, other_dones, other_infos = loop.step(actions)
        np.testing.assert_array_equal(obs, other_obs)
        np.testing.assert_array_equal(dones, other_dones)
        np.testing.assert_allclose(rewards, other_rewards, atol=1e-6)
        for key, values in other_infos.items():
            for row in np.flatnonzero(dones):
                np.testing.assert_array_equal(infos[row][key], values[row])
