"""The twelve reasoning tasks at the size of a tiny model: short questions, one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import gymnasium

import text_envs  # noqa: F401  (registers the ids)
from text_envs.core.task import Task
from text_envs.tokenizers import WordTokenizer

__all__ = ["COLUMNS", "SHARES", "SWAPS", "TASKS", "arguments_of", "env_id", "task_of", "vocabulary"]

_SHORT = {"style": "compact"}
# What each question is made of; the ids' own defaults are several times as long. Paths are told in
# sentences, of which the vocabulary knows the commands and not the numbers: shapes differ in these.
TASKS: Mapping[str, Mapping[str, Any]] = {
    "LogicalDeductionThree": {**_SHORT, "pool": 3, "themes": ["age"]},
    "LogicalDeductionFive": {**_SHORT, "pool": 5, "themes": ["age"], "clues": ["at"]},
    "LogicalDeductionSeven": {**_SHORT, "pool": 7, "themes": ["age"], "clues": ["at"]},
    "TrackingShuffledObjectsThree": {**_SHORT, "pool": 3, "themes": ["balls"], "swaps": 1},
    "TrackingShuffledObjectsFive": {**_SHORT, "pool": 5, "themes": ["balls"], "swaps": 1},
    "TrackingShuffledObjectsSeven": {**_SHORT, "pool": 7, "themes": ["balls"], "swaps": 1},
    "DateUnderstanding": {
        **_SHORT, "years": 1, "contexts": ["today"], "questions": ["tomorrow", "yesterday"],
        "num_options": 3,
    },
    "ObjectCounting": {**_SHORT, "max_items": 4, "max_count": 3, "kinds": 2},
    "GeometricShapes": {
        "shapes": ["line", "triangle", "kite", "pentagon", "circle", "sector"], "num_options": 4,
    },
    "PenguinsInATable": {
        **_SHORT, "rows": 3, "change_rate": 0.0, "questions": ["value", "extreme", "count"],
        "num_options": 3,
    },
    "ReasoningAboutColoredObjects": {
        **_SHORT, "objects": 3, "colors": 4, "questions": ["color", "end", "count"],
        "num_options": 4,
    },
    "WordSorting": {**_SHORT, "max_words": 8, "vocabulary": 30},
}  # fmt: skip
# How often the model to start from reads a question of each: enough to be right now and then, and
# not more. Who holds what after a swap is beyond a model of this size in a few minutes of reading.
SHARES: Mapping[str, float] = {
    "LogicalDeductionThree": 1.0, "LogicalDeductionFive": 0.5, "LogicalDeductionSeven": 0.7,
    "TrackingShuffledObjectsThree": 0.5, "TrackingShuffledObjectsFive": 0.5,
    "TrackingShuffledObjectsSeven": 0.5, "DateUnderstanding": 1.5, "ObjectCounting": 0.15,
    "GeometricShapes": 0.3, "PenguinsInATable": 1.0, "ReasoningAboutColoredObjects": 1.5,
    "WordSorting": 0.7,
}  # fmt: skip
SWAPS = tuple(task for task in TASKS if task.startswith("TrackingShuffledObjects"))
COLUMNS = 128  # of the model; the longest question and answer take fewer
_QUESTIONS = 2000  # of each task, for the vocabulary


def env_id(task: str, goal: bool = False) -> str:
    """Return the id of a task, with goals or without."""
    return f"text_envs/{task}{'Goal' if goal else ''}-v0"


def arguments_of(task: str, split: str, count: int, seed: int = 0) -> dict[str, Any]:
    """Return the arguments of a task's environment, the common vocabulary among them."""
    return {
        **TASKS[task],
        **({"seed": seed} if seed else {}),
        "split": split,
        "num_examples": count,
        "tokenizer": vocabulary(),
        "prompt_length": _longest(task),
    }


def task_of(task: str, **arguments: Any) -> Task:
    """Return the task of an environment made with these arguments."""
    made: Any = gymnasium.make(env_id(task), **arguments).unwrapped
    found: Task = made.task
    return found


@lru_cache
def _longest(task: str) -> int:
    """Return the columns that hold every question: those of the task's own closed vocabulary."""
    if task == "GeometricShapes":  # which counts characters; a corner is two words
        return 64
    return int(task_of(task, **TASKS[task]).prompt_length)


@lru_cache
def vocabulary() -> WordTokenizer:
    """Return the words of the training questions of all tasks, without the numbers of paths."""
    words: dict[str, None] = {}
    for task, arguments in TASKS.items():
        for example in task_of(task, **arguments, num_examples=_QUESTIONS).examples:
            for text in (example.prompt, *example.references):
                words.update(dict.fromkeys(filter(_known, WordTokenizer.split(text))))
    return WordTokenizer(list(words))


def _known(word: str) -> bool:
    return not (any(c.isdigit() for c in word) and any(c in ".," for c in word))
