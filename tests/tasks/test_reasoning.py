"""The reasoning families: sound questions, clean splits, fair options, helpful errors."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import text_envs
from text_envs.tasks.reasoning import ReasoningTask
from text_envs.tasks.reasoning.checker import normalise
from text_envs.tasks.reasoning.colored_objects import ReasoningAboutColoredObjects
from text_envs.tasks.reasoning.counting import ObjectCounting
from text_envs.tasks.reasoning.dates import DateUnderstanding
from text_envs.tasks.reasoning.deduction import LogicalDeduction
from text_envs.tasks.reasoning.items import SPLITS, draw_examples, letter, split_of
from text_envs.tasks.reasoning.penguins import PenguinsInATable
from text_envs.tasks.reasoning.shapes import GeometricShapes
from text_envs.tasks.reasoning.sorting import WordSorting
from text_envs.tasks.reasoning.tracking import TrackingShuffledObjects

IDS = tuple(
    f"text_envs/{name}-v0"
    for name in (
        "LogicalDeductionThree", "LogicalDeductionFive", "LogicalDeductionSeven",
        "TrackingShuffledObjectsThree", "TrackingShuffledObjectsFive",
        "TrackingShuffledObjectsSeven", "DateUnderstanding", "ObjectCounting", "GeometricShapes",
        "PenguinsInATable", "ReasoningAboutColoredObjects", "WordSorting",
    )
)  # fmt: skip
# The small end of each family, on which a very small model can be tried.
SMALL: tuple[tuple[type[ReasoningTask], dict[str, Any]], ...] = (
    (LogicalDeduction, {"objects": 2, "pool": 3, "themes": ["race"]}),
    (TrackingShuffledObjects, {"people": 2, "swaps": 1, "pool": 4, "themes": ["balls"]}),
    (DateUnderstanding, {"years": 1, "questions": ["tomorrow", "yesterday"], "num_options": 2}),
    (ObjectCounting, {"max_items": 3, "max_count": 1, "kinds": 1, "decoy_rate": 0.0}),
    (GeometricShapes, {"shapes": ["triangle", "line", "circle"]}),
    (PenguinsInATable, {"rows": 2, "change_rate": 0, "questions": ["extreme"]}),
    (ReasoningAboutColoredObjects, {"objects": 2, "colors": 3, "questions": ["color"],
                                    "num_options": 2}),
    (WordSorting, {"max_words": 3, "vocabulary": 12}),
)  # fmt: skip


def make(env_id: str, **kwargs: Any) -> ReasoningTask:
    task = gym.make(env_id, **kwargs).unwrapped.task
    assert isinstance(task, ReasoningTask)
    return task


# -- all families ----------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_qualities_play_through_step(env_id: str) -> None:
    task = make(env_id)
    returns = {
        q: task.demonstrations(128, quality=q, seed=1).returns.mean() for q in task.qualities
    }
    assert returns["expert"] == 1.0 and returns["wrong"] == 0.0 and returns["random"] < 0.1
    assert 0.35 < returns["mixed"] < 0.65


@pytest.mark.parametrize("style", ["sentences", "compact"])
@pytest.mark.parametrize("env_id", IDS)
def test_closed_vocabulary_fair_options_and_fast_start(env_id: str, style: str) -> None:
    begin = time.process_time()
    task = make(env_id, style=style, seed=1)
    assert time.process_time() - begin < 5  # a third of a second alone, on a slow machine more
    prompts = task.prompts(np.arange(len(task)))
    assert len(task) == 2000 and not (prompts == task.tokenizer.unk_id).any()
    for example in task.examples[:300]:
        (gold,) = example.references
        assert normalise(task.tokenizer.decode(task.tokenizer.encode(gold))) == normalise(gold)
        assert gold not in example.metadata["wrong"] and example.metadata["wrong"]
        options = example.metadata.get("options", [])
        assert len(set(options)) == len(options) != 1
    base = task.baselines()
    if "options" in task.example(0).metadata:
        letters = Counter(example.references[0] for example in task.examples)
        assert base["majority"] == max(letters.values()) / 2000
        assert base["chance"] <= base["majority"] + 1e-9 < base["chance"] + 0.03


@pytest.mark.parametrize("env_id", IDS)
def test_no_context_stands_in_two_splits(env_id: str) -> None:
    family = make(env_id, num_examples=1).family
    difficulty = gym.spec(env_id).kwargs
    keys: dict[str, set[str]] = {}
    for split in SPLITS:
        task = make(env_id, split=split, num_examples=120)
        drawn = family(**{k: v for k, v in difficulty.items() if k != "task"})
        assert task.examples == draw_examples(drawn, split, 0, 120)
        keys[split] = {context_of(task, i) for i in range(len(task))}
    assert not keys["train"] & keys["validation"] and not keys["test"] & (
        keys["train"] | keys["validation"]
    )


def context_of(task: ReasoningTask, index: int) -> str:
    """The context without the question, rebuilt from the example alone."""
    example = task.example(index)
    details = {
        key: value
        for key, value in example.metadata.items()
        if key not in ("options", "wrong", "asked", "kind", "table")
    }
    if isinstance(task, PenguinsInATable):
        return re.split(r"(how|which|what)", example.prompt)[0]
    if isinstance(task, LogicalDeduction):
        return repr(sorted(map(repr, details["clues"])))
    if isinstance(task, WordSorting | ObjectCounting):
        return repr(sorted(next(iter(details.values()))))
    return repr(sorted(details.items()))


def test_a_split_depends_on_the_printed_context_alone() -> None:
    keys = [("x", number) for number in range(20_000)]
    counts = Counter(map(split_of, keys))
    assert abs(counts["test"] / 20_000 - 0.1) < 0.01 > abs(counts["validation"] / 20_000 - 0.1)
    assert list(map(split_of, keys[:9])).count("train") > 4


@pytest.mark.parametrize(("cls", "difficulty"), SMALL, ids=lambda x: getattr(x, "__name__", ""))
def test_the_small_end(cls: Any, difficulty: dict[str, Any]) -> None:
    task = cls(style="compact", num_examples=50, **difficulty)
    usual = cls(num_examples=50)
    assert task.prompt_length < usual.prompt_length
    assert task.tokenizer.vocab_size < usual.tokenizer.vocab_size
    assert not (task.prompts(np.arange(50)) == task.tokenizer.unk_id).any()
    assert task.demonstrations(20).returns.mean() == 1.0


def test_equal_arguments_share_and_seeds_and_indices_differ() -> None:
    one, other = WordSorting(seed=4), WordSorting(seed=4)
    assert one.examples is other.examples
    fewer = WordSorting(seed=4, num_examples=7)
    assert fewer.examples == one.examples[:7]
    prompts = {example.prompt for example in WordSorting(seed=5).examples}
    assert not prompts & {example.prompt for example in one.examples[1:]}


def test_letters_go_on_after_z() -> None:
    names = [letter(place) for place in range(800)]
    assert names[:3] == ["a", "b", "c"] and names[25:28] == ["z", "aa", "ab"]
    assert len(set(names)) == 800 and all(name.isalpha() for name in names)


# -- bad arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "kwargs", "error", "message"),
    [
        (LogicalDeduction, {"object": 3}, TypeError, "no argument 'object'.*mean 'objects'"),
        (LogicalDeduction, {"objects": 8}, ValueError, r"objects must be an integer of 2\.\.7"),
        (LogicalDeduction, {"objects": True}, ValueError, "got True"),
        (LogicalDeduction, {"themes": ["races"]}, ValueError, "unknown themes 'races'.*'race'"),
        (LogicalDeduction, {"clues": []}, ValueError, "at least one of 'before', 'next', 'at'"),
        (LogicalDeduction, {"style": "long"}, ValueError, "unknown style 'long'"),
        (LogicalDeduction, {"split": "dev"}, ValueError, "unknown split 'dev'"),
        (LogicalDeduction, {"split": "all"}, ValueError, "unknown split 'all'"),
        (LogicalDeduction, {"seed": -1}, ValueError, "seed must be an integer"),
        (LogicalDeduction, {"num_examples": 0}, ValueError, "num_examples must be"),
        (LogicalDeduction, {"prompt_length": 9}, ValueError, "more than prompt_length=9"),
        (TrackingShuffledObjects, {"pool": 2}, ValueError, r"pool must be an integer of 3\.\.10"),
        (DateUnderstanding, {"questions": ["today"]}, ValueError, "'today' alone"),
        (ObjectCounting, {"decoy_rate": 2}, ValueError, r"must lie in 0\.\.1, got 2"),
        (ObjectCounting, {"kinds": 1}, ValueError, "decoys come from another kind"),
        (GeometricShapes, {"shapes": ["line"]}, ValueError, "two different ones"),
        (GeometricShapes, {"num_options": 1}, ValueError, r"an integer of 2\.\.10, got 1"),
        (PenguinsInATable, {"change_rate": -1}, ValueError, "change_rate"),
        (ReasoningAboutColoredObjects, {"colors": 3}, ValueError, r"num_options .* 2\.\.3, got 5"),
        (WordSorting, {"min_words": 9, "max_words": 4}, ValueError, "min_words"),
        (WordSorting, {"max_words": 2, "vocabulary": 2, "split": "test"}, ValueError,
         "no context for split 'test'"),
    ],
)  # fmt: skip
def test_bad_arguments(cls: Any, kwargs: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        cls(**kwargs)


def test_prompts_can_be_truncated() -> None:
    task = LogicalDeduction(num_examples=5, prompt_length=9, truncate_prompts=True)
    assert task.prompts(np.arange(5)).shape == (5, 9)
    assert text_envs.TokenEnv(task).reset(seed=0)[0].shape == (11,)
