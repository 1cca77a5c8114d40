r"""Hindsight on arrays: which goal a text has reached, whatever it was asked for.

Goals are numbers `0..K-1`, worse to better: with two of them "wrong" and "correct", with more the
levels of a graded reward. A text that failed at one goal has reached another one, so the pair
(goal reached, text) is always right, and every text teaches something.

| symbol | argument | shape |
|---|---|---|
| $p$ | `desired`: what was asked for | (B,) |
| $a$ | `achieved`: what the text is; `UNFINISHED` where nobody could judge it | (B,) |
| $R = 1[a = p]$ | `reached` | (B,) |
| $p^*$ | `relabel`: what to say the text was asked for | (B,) |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.types import EpisodeBatch

__all__ = [
    "UNFINISHED",
    "PartJudge",
    "SuffixMatch",
    "draw_parts",
    "levels_of",
    "reached",
    "relabel",
]

Ints: TypeAlias = NDArray[np.int64]
PartJudge: TypeAlias = Callable[[EpisodeBatch, Ints], Any]
"""Scores the part of each episode that begins at its action number `starts[i]`, `(B,)`."""

UNFINISHED = -1
"""The goal reached by a text that was cut off before its end: none."""


def levels_of(rewards: NDArray[Any], thresholds: Sequence[float]) -> Ints:
    """Return the goal that each reward `(B,)` reaches: how many thresholds are at or below it.

    Raises:
        ValueError: the thresholds are none, not finite or not ascending; a reward is no number.

    >>> levels_of(np.array([0.0, 0.5, 1.0]), [0.5]).tolist()
    [0, 1, 1]
    >>> levels_of(np.array([-1.0, 0.2, 0.7]), [0.0, 0.5]).tolist()
    [0, 1, 2]
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    rising = limits.ndim == 1 and len(limits) > 0 and bool((np.diff(limits) > 0).all())
    if not rising or not np.isfinite(limits).all():
        raise ValueError(f"thresholds must be ascending finite numbers, got {thresholds!r}")
    graded = np.asarray(rewards, np.float64)
    if np.isnan(graded).any():  # it would count as the best
        raise ValueError(f"reward {int(np.isnan(graded).argmax())} is nan, which reaches no goal")
    return np.searchsorted(limits, graded, side="right").astype(np.int64)


def reached(achieved: Ints, desired: Ints) -> NDArray[np.bool_]:
    """Return whether R = 1, `(B,)`: the text is finished and is what was desired.

    Raises:
        ValueError: the shapes differ.
    """
    achieved, desired = np.asarray(achieved), np.asarray(desired)
    if achieved.shape != desired.shape:
        raise ValueError(
            f"achieved goals of shape {achieved.shape} and desired goals of shape {desired.shape}; "
            "the shapes must be equal"
        )
    hit: NDArray[np.bool_] = (achieved == desired) & (achieved != UNFINISHED)
    return hit


def relabel(achieved: Ints, desired: Ints, num_goals: int = 2) -> Ints:
    """Return $p^*$ `(B,)`: the goal that was desired where R = 1, else the one that was reached.

    With two goals that is the opposite of what was desired. Unfinished texts keep `UNFINISHED`:
    no goal is right for them.

    Args:
        achieved: `(B,)` what each text is.
        desired: `(B,)` what was asked for.
        num_goals: K.

    Raises:
        ValueError: the shapes differ, or a goal is outside the set.

    >>> relabel(np.array([1, 0, 0, UNFINISHED]), np.array([1, 1, 0, 1])).tolist()
    [1, 0, 0, -1]
    """
    hit = reached(achieved, desired)
    for name, goals, least in (("achieved", achieved, UNFINISHED), ("desired", desired, 0)):
        outside = (np.asarray(goals) < least) | (np.asarray(goals) >= num_goals)
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"{name} goal {int(np.asarray(goals)[row])} of text {row} is none of the "
                f"{num_goals} goals; accepted: 0..{num_goals - 1}"
            )
    return np.where(hit, desired, achieved).astype(np.int64)


# -- parts of an output ----------------------------------------------------------------------------


def draw_parts(lengths: Ints, count: int, rng: Any) -> tuple[Ints, Ints]:
    """Return `count` parts of every text of at least two actions: its row and its first action.

    A part is a text from one of its actions on, uniform on `1..length-1`; the whole text, from
    action 0 on, is not among them.

    Args:
        lengths: `(B,)` actions of each text.
        count: parts of each.
        rng: a numpy generator, or `numpy.random` itself.

    Returns:
        rows and first actions, both `(count * number of such texts,)`.
    """
    rows = np.repeat(np.flatnonzero(lengths >= 2), count)
    first = 1 + (rng.random(len(rows)) * (lengths[rows] - 1)).astype(np.int64)
    return rows, first


class SuffixMatch:
    """Judge of parts where answers are known: 1 if a part is how an accepted answer goes on.

    The part of a text from action i on is right if its tokens, the end included, are those of an
    accepted answer from its token i on. Of a list whose first half is wrong and whose second half
    is right, the second half is so rewarded. For a whole text (i = 0) it is exact match. An answer
    too long for the task is never met.

    Args:
        task: of one turn, whose examples carry `references`.

    Raises:
        ValueError: an example has none, or the task has turns.
    """

    def __init__(self, task: Task) -> None:
        if task.multi_turn:
            raise ValueError(
                f"{type(task).__name__} has turns, and a part that is compared with references "
                "would hold replies; pass part_judge= a function of (episodes, starts)"
            )
        tokenizer, columns = task.tokenizer, task.max_tokens
        answers = [
            [[*tokenizer.encode(text), tokenizer.eos_id] for text in task.example(i).references]
            for i in range(len(task))
        ]
        without = [i for i, given in enumerate(answers) if not given]
        if without:
            raise ValueError(
                f"example {without[0]} has no references, so no part of an answer can be judged "
                "against them; pass part_judge= a function of (episodes, starts)"
            )
        shape = (len(answers), max(map(len, answers)), columns)
        self._gold = np.full(shape, tokenizer.pad_id, dtype=np.int64)  # (M, G, T)
        self._known = np.zeros(shape[:2], dtype=bool)
        for index, given in enumerate(answers):
            for number, ids in enumerate(given):
                self._gold[index, number, : len(ids)] = ids[:columns]
                self._known[index, number] = len(ids) <= columns + 1  # cut at most its end

    def __call__(self, episodes: EpisodeBatch, starts: Ints) -> NDArray[np.float64]:
        """Return `(B,)`."""
        written = episodes.tokens[:, episodes.prompt_length :]  # (B, T)
        before = np.arange(written.shape[1]) < np.asarray(starts)[:, None]  # (B, T)
        indices = episodes.example_indices
        same = (written[:, None] == self._gold[indices]) | before[:, None]  # (B, G, T)
        right: NDArray[np.bool_] = (same.all(axis=2) & self._known[indices]).any(axis=1)
        return right.astype(np.float64)
