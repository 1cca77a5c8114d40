"""Goals for texts: what they are, what they pay, and an engine whose rows have them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import Outcome, TokenEngine
from text_envs.core.ledger import REPLY
from text_envs.core.reward import RewardModel, describe
from text_envs.core.task import Task
from text_envs.episodes.errors import suggest

__all__ = ["Goal", "GoalEngine", "as_goals", "compute_reward"]


class Goal(IntEnum):
    """What a text is, or is to be."""

    WRONG = 0
    CORRECT = 1
    UNFINISHED = 2  # achieved only, never desired by the environment


def compute_reward(achieved: Any, desired: Any, info: Any = None) -> Any:
    """Return 1 where a finished text is what was desired, else 0.

    Args:
        achieved: a goal, or B of them: `(B,)` or `(B, 1)`, as replay buffers store them.
        desired: the same.
        info: not used; replay buffers pass it.

    Returns:
        A float for single goals, else `(B,)` float64.

    Raises:
        ValueError: the two have different shapes, or one is no goal.

    >>> compute_reward(1, 1), compute_reward([[0], [1], [2]], [[0], [0], [2]]).tolist()
    (1.0, [1.0, 0.0, 0.0])
    """
    reached, wanted = np.asarray(achieved), np.asarray(desired)
    if reached.shape != wanted.shape:  # (B,) against (B, 1) would broadcast to (B, B)
        raise ValueError(
            f"achieved goals of shape {reached.shape} and desired goals of shape {wanted.shape}; "
            "the shapes must be equal"
        )
    for name, goals in (("achieved", reached), ("desired", wanted)):
        if ((goals < int(Goal.WRONG)) | (goals > int(Goal.UNFINISHED))).any():
            raise ValueError(
                f"{name} goals are {goals}; accepted: "
                f"{', '.join(f'{int(goal)} ({goal.name.lower()})' for goal in Goal)}"
            )
    # Plain integers: numpy compares with a member of an enumeration several times slower.
    paid = (reached == wanted) & (reached != int(Goal.UNFINISHED))
    if paid.ndim == 0:
        return float(paid)
    return paid.all(axis=tuple(range(1, paid.ndim))).astype(np.float64)


class GoalEngine(TokenEngine):
    """An engine whose rows have goals; the reward model judges, the goal decides what is paid.

    Goals live in `memory`, which is saved and restored with a row.

    Attributes:
        threshold: a text is correct from this sum of the reward model's components on.
        last_goals: `(N, 2)` achieved and desired goal of the episode before, for a row that has
            been started again within the step that ended it.
    """

    def __init__(
        self,
        task: Task,
        reward_model: RewardModel | None,
        num_envs: int,
        *,
        goal: Any,
        threshold: float,
        max_episode_steps: int | None = None,
    ) -> None:
        """Build the rows.

        Raises:
            ValueError: the task pays for turns, which goals cannot explain, an unknown goal, or a
                threshold that no text could reach.
        """
        if task.multi_turn or reward_model is None:
            raise ValueError(
                f"goals need a task whose finished text is judged at its end by a reward model; "
                f"{type(task).__name__} has turns, or no reward model"
            )
        highest = getattr(reward_model, "highest", None)  # of a calibrated reward, which is 0
        if highest is not None and threshold > highest:
            raise ValueError(
                f"threshold={threshold:g}, but {describe(reward_model)} pays at most {highest:g}: "
                "no text could be correct"
            )
        super().__init__(task, reward_model, num_envs, max_episode_steps=max_episode_steps)
        self.threshold = float(threshold)
        self._fixed = None if goal is None else _as_goal(goal)
        self.memory = {
            "achieved_goal": np.full(num_envs, int(Goal.UNFINISHED), dtype=np.int64),
            "desired_goal": np.zeros(num_envs, dtype=np.int64),
        }
        self.last_goals = np.zeros((num_envs, 2), dtype=np.int64)

    @property
    def _achieved(self) -> NDArray[np.int64]:
        return self.memory["achieved_goal"]

    @property
    def _desired(self) -> NDArray[np.int64]:
        return self.memory["desired_goal"]

    @property
    def term_names(self) -> tuple[str, ...]:
        """What a goal pays is one term."""
        return (REPLY,)

    def begin(self, rows: NDArray[np.int64], indices: NDArray[np.int64]) -> None:
        """Start episodes, and draw a goal for each from the row's generator."""
        super().begin(rows, indices)
        self.last_goals[rows, 0], self.last_goals[rows, 1] = (
            self._achieved[rows],
            self._desired[rows],
        )
        self._achieved[rows] = int(Goal.UNFINISHED)
        # Drawn even if fixed: which questions come next must not depend on who fixed the goal.
        drawn = [int(self.rngs[row].integers(2)) for row in rows.tolist()]
        self._desired[rows] = drawn if self._fixed is None else self._fixed

    def set_goals(self, rows: NDArray[np.int64], goals: NDArray[np.int64]) -> None:
        """Give `rows` `(B,)` the goals `(B,)`, which `as_goals` has checked."""
        self._desired[rows] = goals

    def goals(self) -> dict[str, NDArray[np.int64]]:
        """Return copies of the goals of all rows, each `(N,)`."""
        return {"achieved_goal": self._achieved.copy(), "desired_goal": self._desired.copy()}

    def _pay(self, ended: NDArray[np.int64], outcome: Outcome, before: dict[str, Any]) -> None:
        super()._pay(ended, outcome, before)
        judged = outcome.rewards[ended] >= self.threshold
        self._achieved[ended] = np.where(judged, int(Goal.CORRECT), int(Goal.WRONG))
        outcome.rewards[ended] = compute_reward(self._achieved[ended], self._desired[ended])
        outcome.terms = {REPLY: outcome.rewards.copy()}


def as_goals(goal: Any, count: int) -> NDArray[np.int64]:
    """Return `count` goals as numbers, from one for all or from as many.

    Raises:
        ValueError: an unknown goal, or another number of them.
    """
    goals = [_as_goal(one) for one in ([goal] * count if np.ndim(goal) == 0 else goal)]
    if len(goals) != count:
        raise ValueError(f"option 'goal' has {len(goals)} goals; accepted: one, or {count}")
    return np.array(goals, dtype=np.int64)


def _as_goal(goal: Any) -> int:
    names = {"wrong": int(Goal.WRONG), "correct": int(Goal.CORRECT)}
    if isinstance(goal, str) and goal in names:
        return names[goal]
    if isinstance(goal, int | np.integer) and int(goal) in names.values():
        return int(goal)
    raise ValueError(
        f"unknown goal {goal!r}.{suggest(str(goal), names)} Or 0 (wrong), 1 (correct)."
    )
