"""The study on guided feedback runs; what it finds is no matter of a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("rlgf")
    command = [sys.executable, str(EXAMPLES / "study_rlgf.py"), "--quick", "--seeds", "1"]
    command += ["--workers", "1", "--work", str(folder), "--out", str(folder / "rlgf.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (folder / "rlgf.png").stat().st_size > 10_000
    return json.loads((folder / "rlgf.json").read_text(encoding="utf-8"))


@pytest.mark.long
def test_every_task_has_every_method(found: Any) -> None:
    pairs = {(line["task"], line["method"]) for line in found["over_seeds"]}
    methods = {"SFT", "guide", "PPO", "PPO++", "AggreVaTeD", "LOLS", "D2LOLS"}
    tasks = ("Reviews", "Concepts", "Summarization", "Concepts, all or none")
    assert pairs == {(t, m) for t in tasks for m in methods}
    assert [line["beta"] for line in found["over_betas"]] == [0.0, 0.3, 0.6, 0.9]


@pytest.mark.long
def test_tasks_are_judged_by_more_than_their_reward(found: Any) -> None:
    wanted = {
        "Reviews": {"vader", "perplexity", "distinct_1", "distinct_2"},
        "Concepts": {"coverage", "bleu", "rouge", "meteor"},
        "Concepts, all or none": {"coverage", "bleu", "rouge", "meteor"},
        "Summarization": {"rouge", "distinct_1", "distinct_2"},
    }
    for line in found["over_seeds"]:
        assert wanted[line["task"]] <= set(line), line


@pytest.mark.long
def test_the_price_of_the_guide_is_told(found: Any) -> None:
    for line in found["over_seeds"]:
        if line["method"] in ("SFT", "guide"):
            continue
        asked = line["guide_rows"]
        assert (asked > 0) == (line["method"] != "PPO") and line["texts"] > 0
    tokens = [
        row["tokens"] for row in found["rows"] if row["task"] == "Reviews" and "tokens" in row
    ]
    assert max(tokens) < 4 * min(tokens)  # of one or two iterations; a full study differs by 1%


@pytest.mark.long
def test_no_path_of_a_machine_is_kept(found: Any) -> None:
    assert "/agent" not in json.dumps(found)
