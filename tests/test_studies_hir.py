"""The study on hindsight runs; what it finds is no matter of a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
torch = pytest.importorskip("torch")
sys.path.insert(0, str(EXAMPLES))

from studies import her, hir, hir_pretraining  # noqa: E402
from studies.hir_tasks import TASKS, arguments_of, task_of, vocabulary  # noqa: E402

from text_envs.tasks.reasoning.tracking import holdings  # noqa: E402


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("hir")
    command = [sys.executable, str(EXAMPLES / "study_hir.py"), "--smoke", "--seeds", "1"]
    command += ["--workers", "1", "--work", str(folder), "--out", str(folder / "hir.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (folder / "hir.png").stat().st_size > 10_000
    return json.loads((folder / "hir.json").read_text(encoding="utf-8"))


@pytest.mark.long
def test_every_task_has_every_method(found: Any) -> None:
    pairs = {(line["task"], line["method"]) for line in found["over_seeds"]}
    methods = {"chance", "majority", "base", "PPO", "FARL", "HIR", "SFT"}
    assert pairs == {(task, method) for task in TASKS for method in methods}
    assert {line["method"] for line in found["averages"]} == methods


@pytest.mark.long
def test_sub_outputs_are_left_out_where_answers_have_any(found: Any) -> None:
    pairs = {(line["task"], line["method"]) for line in found["ablation"]}
    assert ("WordSorting", "no sub-output") in pairs
    assert ("GeometricShapes", "no sub-output") not in pairs
    assert {m for t, m in pairs if t == "GeometricShapes"} >= {"HIR", "no contrast", "no entropy"}


@pytest.mark.long
def test_one_task_gets_more_iterations(found: Any) -> None:
    assert {line["method"] for line in found["longer"]} == {"PPO", "FARL", "HIR"}
    (usual,) = {row["rounds"] for row in found["rows"] if row.get("method") == "SFT"}
    assert all(line["rounds"] == 3 * usual for line in found["longer"])


@pytest.mark.long
def test_the_off_the_shelf_comparison_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "study_her.py"), "--smoke", "--seeds", "1"]
    command += ["--workers", "1", "--work", str(tmp_path), "--out", str(tmp_path / "her.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = json.loads((tmp_path / "her.json").read_text(encoding="utf-8"))["over_seeds"]
    assert {(line["task"], line["method"]) for line in lines} == {
        (task, method) for task in her.TASKS for method in ("HIR", "FARL", "DQN + HER")
    }
    shares = ("asked_right", "asked_wrong", "held_out")
    assert all(0 <= line[share] <= 1 for line in lines for share in shares)
    assert (tmp_path / "her.png").stat().st_size > 10_000


@pytest.mark.long
def test_chance_is_that_of_the_options(found: Any) -> None:
    chance = {x["task"]: x["accuracy"] for x in found["over_seeds"] if x["method"] == "chance"}
    assert chance["LogicalDeductionFive"] == pytest.approx(0.2)
    assert chance["GeometricShapes"] == pytest.approx(0.25)


def test_the_vocabulary_knows_every_word_but_the_numbers_of_paths() -> None:
    words = vocabulary()
    for name in TASKS:
        task = task_of(name, **arguments_of(name, "test", 50))
        prompts = [words.encode(example.prompt) for example in task.examples]
        unknown = any(words.unk_id in prompt for prompt in prompts)
        assert unknown == (name == "GeometricShapes"), name
        assert not any(words.unk_id in words.encode(e.references[0]) for e in task.examples)


def test_texts_to_read_end_with_their_answer() -> None:
    task = task_of("WordSorting", **arguments_of("WordSorting", "train", 8, 1))
    rows, lengths = hir_pretraining.texts_of(task)
    for row, length, example in zip(rows, lengths, task.examples, strict=True):
        assert row[-1] == task.tokenizer.eos_id
        assert task.tokenizer.decode(row[-length:-1]) == example.references[0]
    other = task_of("WordSorting", **arguments_of("WordSorting", "train", 8))
    assert [e.prompt for e in other.examples] != [e.prompt for e in task.examples]


def test_accuracy_is_of_the_whole_split_and_falls_to_none_for_silence() -> None:
    class Silent:
        """Ends at once."""

        def predict(self, obs: Any, state: Any = None, **kwargs: Any) -> Any:
            rows = len(obs["observation"] if isinstance(obs, dict) else obs)
            return np.full(rows, vocabulary().eos_id), state

    found = hir.accuracies(Silent(), "ObjectCounting", True, 16, 32)
    assert found == {"accuracy": 0.0, "accuracy_train": 0.0, "accuracy_asked_wrong": 0.0}


def test_what_everybody_holds_is_told_without_letters() -> None:
    name = "TrackingShuffledObjectsThree"
    task = task_of(name, **arguments_of(name, "train", 20, 1))
    rows, lengths = hir_pretraining._held_by_everybody(task, np.random.default_rng(0))
    words = task.tokenizer
    for row, length, example in zip(rows, lengths, task.examples, strict=True):
        facts = example.metadata
        held = holdings(facts["people"], facts["objects"], facts["swaps"])
        start, swap, *pairs = words.decode(row).split("; ")
        assert example.prompt.startswith(f"{start}; {swap}; ")
        assert dict(pair.split("? ") for pair in pairs) == held
        first = held[pairs[0].split("?")[0]]
        assert words.decode(row[-length:]) == "; ".join([first, *pairs[1:]])


def test_the_share_of_right_answers_is_that_of_asking_one_by_one() -> None:
    name = "TrackingShuffledObjectsThree"
    task = task_of(name, **arguments_of(name, "validation", 40, 1))
    lm = hir_pretraining._new(layers=1, width=16, seed=0)
    rows = hir_pretraining.texts_of(task)
    optimizer = torch.optim.Adam(lm.parameters(), 3e-2)
    rng = np.random.default_rng(0)
    for _ in range(30):  # now it answers with letters, and then with the end
        hir_pretraining._step(lm, optimizer, rows, rng, 32)
    words, found = task.tokenizer, []
    for example in task.examples:
        ids = torch.tensor([[words.bos_id, *words.encode(example.prompt)]])
        for _ in range(2):
            ids = torch.cat([ids, lm(ids).logits[:, -1:].argmax(2)], dim=1)
        found.append(ids[0, -2:].tolist() == [*words.encode(example.references[0]), words.eos_id])
    assert 0.0 < np.mean(found) < 1.0
    assert hir_pretraining._right(lm, rows) == pytest.approx(np.mean(found))
