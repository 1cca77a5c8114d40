"""Which answers count as right, and questions from files in the format of BIG-bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_envs import DatasetError
from text_envs.episodes.types import EpisodeBatch
from text_envs.tasks.reasoning import ExactMatch
from text_envs.tasks.reasoning.bigbench import load_bigbench
from text_envs.tasks.reasoning.checker import normalise
from text_envs.tasks.reasoning.counting import ObjectCounting
from text_envs.tasks.reasoning.deduction import LogicalDeduction
from text_envs.tasks.reasoning.items import SPLITS, letter, split_of
from text_envs.tasks.reasoning.sorting import WordSorting
from text_envs.tokenizers import CharTokenizer, WordTokenizer

# -- the checker -----------------------------------------------------------------------------------


def judge(texts: list[str], answers: list[tuple[str, ...]], tokenizer: Any) -> list[float]:
    width = 6
    tokens = np.full((len(texts), 1 + width), tokenizer.pad_id)
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text)
        tokens[row, 1 : 1 + len(ids)] = ids
    roles = np.full(tokens.shape, 3, dtype=np.int8)
    episodes = EpisodeBatch(
        tokens, roles, prompt_length=1, tokenizer=tokenizer,
        example_indices=np.arange(len(texts)), finish_reasons=["stop"] * len(texts),
        get_example=lambda index: None,  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    rewards: list[float] = ExactMatch(answers, tokenizer, width)(episodes).tolist()
    return rewards


def test_exact_match_by_tokens_and_by_text() -> None:
    tokenizer = WordTokenizer(["some", "so", "me", ".", "12", "1", "2", "b"])
    answers: list[tuple[str, ...]] = [("some",)] * 5 + [("12",), ("1", "b."), ("b",)]
    texts = ["some", ". some .", "so me", "me so", "", "1 2", "b", "b b"]
    assert judge(texts, answers, tokenizer) == [1, 1, 1, 0, 0, 1, 1, 0]
    letters = CharTokenizer("Aa. b")
    assert judge(["A", " a.", "b", "aa"], [("a",)] * 4, letters) == [1, 1, 0, 0]


@given(st.data())
def test_exact_match_agrees_with_comparing_texts(data: Any) -> None:
    tokenizer = WordTokenizer(["a", "b", "ab", "ba", "."])
    word = st.lists(st.sampled_from(tokenizer.words), min_size=1, max_size=4).map(" ".join)
    texts = data.draw(st.lists(word, min_size=1, max_size=6))
    golds = [tuple(data.draw(st.lists(word, min_size=1, max_size=3))) for _ in texts]
    expected = [float(normalise(t) in set(map(normalise, g))) for t, g in zip(texts, golds)]  # noqa: B905
    assert judge(texts, golds, tokenizer) == expected


def test_another_tokenizer(bpe_tokenizer: Any) -> None:
    task = LogicalDeduction(num_examples=20, tokenizer=bpe_tokenizer)
    assert task.demonstrations(16).returns.mean() == 1.0
    assert task.demonstrations(16, quality="wrong").returns.mean() == 0.0


# -- BIG-bench -------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {"input": "A tin holds 2 nails and 1 screw. How many things are inside?", "target": "3"},
    {"input": "A tin holds 2 nails and 1 screw. How many nails?", "target": ["2", "two"]},
    {
        "input": "The mill is older than the barn. Which is newer?",
        "target_scores": {"the mill": 0, "the barn": 1, "the shed": 0},
    },
    {"input": "Name a primary color.", "target_scores": {"red": 1, "blue": 1, "olive": 0}},
]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(content: Any) -> Path:
        file = tmp_path / "task.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return file

    return write


def test_bigbench_file(write: Any) -> None:
    file = write({"canary": "keep out", "name": "x", "examples": ROWS, "metrics": ["exact"]})
    env = gym.make("text_envs/ObjectCounting-v0", dataset=str(file), split="all")
    task = env.unwrapped.task
    assert len(task) == 4 and task.example(1).references == ("2", "two")
    assert task.example(2).prompt.endswith("(c) the barn")  # third item, third place
    assert task.example(2).references == ("c",)
    golds, options = task.example(3).references, task.example(3).metadata["options"]
    assert {options[ord(g) - 97] for g in golds} == {"red", "blue"} and len(golds) == 2
    assert task.example(3).metadata["wrong"] == [letter(options.index("olive"))]
    assert task.demonstrations(12).returns.tolist() == [1.0] * 12
    assert task.demonstrations(12, quality="wrong").returns.tolist() == [0.0] * 12
    assert task.baselines()["chance"] > 0
    folder = LogicalDeduction(dataset=file.parent, split="all")
    assert folder.examples == task.examples


def test_bigbench_splits_follow_contexts(write: Any) -> None:
    rows = [
        {"input": f"A tin holds {n} nails. {question}", "target": str(n)}
        for n in range(200)
        for question in ("How many nails?", "How many things are inside?")
    ]
    file = write({"examples": rows})
    parts = {split: ObjectCounting(dataset=file, split=split) for split in SPLITS}
    shapes = {(task.prompt_length, task.max_tokens, task.tokenizer) for task in parts.values()}
    assert len(shapes) == 1 and sum(map(len, parts.values())) == 400
    contexts = {
        split: {e.prompt.split(".")[0] for e in task.examples} for split, task in parts.items()
    }
    assert len(set.union(*contexts.values())) == 200 == sum(map(len, contexts.values()))
    assert all(len(task) % 2 == 0 for task in parts.values())
    assert not (parts["test"].prompts(np.arange(9)) == parts["test"].tokenizer.unk_id).any()


def test_more_options_than_letters(write: Any) -> None:
    scores = {f"thing {n}": int(n == 5) for n in range(40)}
    rows = [{"input": f"Pick number {k}.", "target_scores": scores} for k in range(40)]
    task = ObjectCounting(dataset=write({"examples": rows}), split="all")
    golds = [example.references[0] for example in task.examples]
    assert golds[:2] == ["a", "b"] and golds[25:28] == ["z", "aa", "ab"] and len(set(golds)) == 40
    assert task.demonstrations(64).returns.mean() == 1.0


def test_rows_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = {
        "inputs": ["Which is blue?", "How many?"],
        "targets": [["sky"], ["4"]],
        "multiple_choice_targets": [["sky", "soil"], []],
        "multiple_choice_scores": [[1, 0], []],
    }
    data = datasets.Dataset.from_dict(rows)
    examples, _ = load_bigbench(data, split="all")
    assert examples[0].references == ("a",) and examples[1].references == ("4",)
    data.save_to_disk(str(tmp_path / "saved"))
    assert load_bigbench(str(tmp_path / "saved"), split="all")[0] == examples
    asked: list[Any] = []

    def load_dataset(*args: Any, trust_remote_code: bool) -> Any:
        asked.append(args)
        return datasets.DatasetDict(validation=data, train=data)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = WordSorting(dataset="someone/tasks", split="all")
    assert len(task) == 4 and asked == [("someone/tasks", "word_sorting")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"examples": [\n{"input": }]}', r"task\.json, line 2: not JSON"),
        ("[1]", "expected an object with a field 'examples', got list"),
        ({"tests": []}, r"field 'examples', got \['tests'\]"),
        ({"examples": {}}, "'examples' must be a list, got dict"),
        ({"examples": []}, "'examples' is empty"),
        ({"examples": [ROWS[0], 3]}, r"task\.json, example 2: expected a mapping, got int"),
        ({"examples": [{"target": "x"}]}, "example 1: no field 'input'; it has 'target'"),
        ({"examples": [{"input": " ", "target": "x"}]}, "field 'input' must be a text"),
        ({"examples": [{"input": "x"}]}, "no field 'target' or 'target_scores'"),
        ({"examples": [{"input": "x", "target": []}]}, "field 'target' must be a text or a list"),
        ({"examples": [{"input": "x", "target": " . "}]}, "not empty; got ' . '"),
        ({"examples": [{"input": "x", "target": [3]}]}, r"got \[3\]"),
        ({"examples": [{"input": "x", "target_scores": {"a": 1}}]}, "two options or more"),
        ({"examples": [{"input": "x", "target_scores": {"a": "1", "b": 0}}]}, "score '1'"),
        ({"examples": [{"input": "x", "target_scores": {"a": 0, "b": 0}}]}, "no option has"),
        (
            {"examples": [{"input": "x", "multiple_choice_targets": ["a", "b"]}]},
            "'multiple_choice_scores' must hold 2 numbers, got None",
        ),
    ],
)
def test_malformed_bigbench_files(write: Any, content: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_bigbench(write(content))


def test_an_empty_split(write: Any) -> None:
    file = write({"examples": ROWS[:2]})
    own = split_of(("bigbench", "A tin holds 2 nails and 1 screw."))
    assert len(load_bigbench(file, split=own)[0]) == 2
    other = next(split for split in SPLITS if split != own)
    with pytest.raises(DatasetError, match="only 1 contexts in 2 examples. split='all'"):
        load_bigbench(file, split=other)


def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.json: cannot read the file"):
        load_bigbench(tmp_path / "none.json")
    bad = tmp_path / "task.json"
    bad.write_bytes(b'{"examples":\n[\xff]}')
    with pytest.raises(DatasetError, match="line 2: not UTF-8"):
        load_bigbench(bad)
    with pytest.raises(DatasetError, match="neither a local task.json nor a data set"):
        load_bigbench(str(tmp_path / "nothing"))
    with pytest.raises(DatasetError, match="got int"):
        load_bigbench(3)
    with pytest.raises(ValueError, match="more than prompt_length=4"):
        ObjectCounting(dataset=ROWS, split="all", prompt_length=4)
    for wrong in ({"objects": 3}, {"num_examples": 3}):
        with pytest.raises(ValueError, match="generated questions"):
            LogicalDeduction(dataset=ROWS, split="all", **wrong)
