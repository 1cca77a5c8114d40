"""The study on offline learning runs and reports; what came out is in its report, not in a test."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("torch")
METHODS = {"data", "random", "expert", "BC", "%BC", "DT", "MC", "SARSA", "CQL", "ILQL"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the smallest study of two tasks."""
    folder = tmp_path_factory.mktemp("offline")
    command = [sys.executable, os.fspath(EXAMPLES / "study_offline.py"), "--smoke", "--seeds", "1"]
    command += ["--tasks", "Wordle", "Comments, noised", "--workers", "1"]
    command += ["--work", os.fspath(folder / "work"), "--out", os.fspath(folder / "offline.json")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    assert (folder / "offline.png").stat().st_size > 10_000
    return json.loads((folder / "offline.json").read_text(encoding="utf-8"))


@pytest.mark.long
def test_every_method_has_a_row_of_every_task(results: Any) -> None:
    games = [row for row in results["rows"] if "return" in row]
    for task in ("Wordle", "Comments, noised"):
        assert {row["method"] for row in games if row["task"] == task} == METHODS
    for row in games:
        assert math.isfinite(row["score"]) and row["seconds"] >= 0 and row["seed"] == 0
        assert "model" not in row
    assert all({"tau", "gamma"} <= set(r["settings"]) for r in games if r["method"] == "ILQL")
    by_method = {row["method"]: row for row in games if row["task"] == "Wordle"}
    assert by_method["random"]["score"] == 0 and by_method["expert"]["score"] == 1
    assert by_method["random"]["return"] == -6 < by_method["data"]["return"]


@pytest.mark.long
def test_adversarial_rows_and_sweep(results: Any) -> None:
    tests = [row for row in results["rows"] if "accuracy" in row]
    for method in ("ILQL", "exact"):
        taus = [row["settings"]["tau"] for row in tests if row["method"] == method]
        assert taus == [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
        lines = [line for line in results["adversarial"] if line["method"] == method]
        assert [line["tau"] for line in lines] == taus
    for row in tests:
        assert 0 <= row["accuracy"] <= 1 and row["pairs"] > 10
        # What makes the set adversarial, the same in every row.
        assert row["return_adversarial"] == -6 < row["return_suboptimal"] < row["return_expert"]
    exact = [row for row in tests if row["method"] == "exact"]
    worth = [row["expert_first_word"] for row in exact]
    assert worth == sorted(worth) and exact[-1]["accuracy"] > exact[0]["accuracy"]
    assert {(line["method"], line["beta"]) for line in results["beta_sweep"]} == {
        (method, beta)
        for method in ("MC", "SARSA", "CQL", "ILQL")
        for beta in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    }


def test_scores_lie_between_chance_and_the_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.fspath(EXAMPLES))
    from study_offline import normalised

    def row(method: str, value: float, **more: Any) -> dict[str, Any]:
        return {"task": "Maze", "method": method, "return": value, **more}

    rows = [row("random", -9.0), row("random", -11.0), row("expert", -2.0)]
    found = normalised([*rows, row("BC", -6.0, sweep=[{"beta": 1.0, "return": -4.0}])])
    assert [line["score"] for line in found] == [0.125, -0.125, 1.0, 0.5]
    assert found[3]["sweep"] == [{"beta": 1.0, "return": -4.0, "score": 0.75}]


def test_the_expectile_of_one_good_game_in_six(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.fspath(EXAMPLES))
    from studies.offline_adversarial import _expectile

    golden = {0.5: -5.441, 0.7: -4.933, 0.8: -4.510, 0.85: -4.219, 0.9: -3.845, 0.99: -2.808}
    for tau, value in golden.items():
        assert _expectile([-2.647] + 5 * [-6.0], tau) == pytest.approx(value, abs=1e-3)
