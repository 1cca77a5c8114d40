"""The stored reference scores: complete, true to what the policies earn now, and a scale."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import text_envs
from text_envs.datasets import reference_scores as reference
from text_envs.datasets.reference_scores import (
    measure,
    normalised_score,
    reference_scores,
    write_scores,
)

REMEDY = "run python -m text_envs.datasets.reference_scores"


@pytest.mark.parametrize("env_id", text_envs.list_ids())
def test_stored_scores_are_what_the_policies_earn(env_id: str) -> None:
    """With other seeds, within five standard errors of the difference."""
    stored = reference_scores(env_id)
    task = gym.make(env_id).unwrapped.task
    expected = {name for name, quality in reference.QUALITIES.items() if quality in task.qualities}
    assert set(stored) == expected, REMEDY
    assert all(np.isfinite(score["mean"]) for score in stored.values())
    for name, score in measure(env_id, 48, seed=1).items():
        error = np.hypot(score["interval"], stored[name]["interval"]) / 1.96
        # So few episodes can all be alike by chance: the spread of the many counts too.
        spread = stored[name]["interval"] / 1.96 * np.sqrt(stored[name]["episodes"] / 48)
        assert abs(score["mean"] - stored[name]["mean"]) <= 5 * max(error, spread) + 1e-3, REMEDY


@pytest.mark.parametrize("env_id", text_envs.list_ids())
def test_the_expert_is_worth_the_name(env_id: str) -> None:
    stored = reference_scores(env_id)
    if "expert" not in stored:
        pytest.skip("no scripted expert")
    assert stored["expert"]["mean"] > stored["random"]["mean"]
    assert np.isclose(normalised_score(env_id, stored["expert"]["mean"]), 1.0)
    assert normalised_score(env_id, stored["random"]["mean"]) == 0.0


def test_values_known_exactly() -> None:
    toy = reference_scores("Toy-v0")
    exact = 1 / 9 + 2 / 27 + 0.5 * (1 / 3 + 2 / 9 + 4 / 27)
    assert toy["expert"] == {"mean": 1.5, "interval": 0.0, "episodes": 1024}
    assert abs(toy["random"]["mean"] - exact) < 2 * toy["random"]["interval"]
    assert normalised_score("text_envs/Toy-v0", 1.5) == 1.0


def test_writing_keeps_other_ids_and_is_whole_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scores.json"
    write_scores(["text_envs/Toy-v0"], 8, file=file)
    write_scores(["text_envs/TargetWords-v0"], 8, file=file)
    before = file.read_text(encoding="utf-8")
    assert list(json.loads(before)["scores"]) == ["text_envs/TargetWords-v0", "text_envs/Toy-v0"]
    assert "text_envs/Toy-v0 random" in capsys.readouterr().out

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(reference.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scores(["text_envs/Toy-v0"], 8, file=file)
    assert file.read_text(encoding="utf-8") == before and len(list(tmp_path.iterdir())) == 1


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called = []
    monkeypatch.setattr(reference, "write_scores", lambda *arguments: called.append(arguments))
    reference.main(["--ids", "Toy-v0", "--episodes", "4"])
    reference.main([])
    assert called == [(["text_envs/Toy-v0"], 4, 0), (text_envs.list_ids(), 1024, 0)]
    with pytest.raises(SystemExit):
        reference.main(["--ids", "Toi-v0"])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="no reference scores for 'Toi-v0'.*'text_envs/Toy-v0'"):
        reference_scores("Toi-v0")
    with pytest.raises(ValueError, match="at least 2 episodes, got 1"):
        measure("text_envs/Toy-v0", 1)
    scores = reference_scores("Toy-v0")
    scores["random"]["mean"] = 9.0  # a copy: what is stored cannot be changed by accident
    assert reference_scores("Toy-v0")["random"]["mean"] < 1
