"""What demonstrations earn: each is scored once, in batches, by a model checked to be stable."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.reward import RewardModel, describe, score
from text_envs.core.task import Task
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.demos import Demonstrations, Rows, Subject

__all__ = ["DemoRewards"]

Floats = NDArray[np.float64]

# Examples whose demonstrations speak for all of a task's, evenly spaced.
_MANY = 256
# Demonstrations scored a second time, and how far the two scores may be apart, relative to them
# or absolutely: a network in float32 gives slightly other scores in another batch.
_TWICE = 8
_TOLERANCE = 1e-4


@dataclass
class _Known:
    """One task's examples so far: the rewards `(n, K)` of the n demonstrations of each."""

    subject: Subject
    rewards: dict[int, Floats] = field(default_factory=dict)


class DemoRewards:
    """The rewards of demonstrations by example, for any number of tasks."""

    def __init__(
        self,
        reward_model: RewardModel,
        demonstrations: Demonstrations,
        *,
        batch_size: int,
        needed: bool,
    ) -> None:
        """Remember who scores what.

        Args:
            reward_model: scores demonstrations as it scores generations.
            demonstrations: where they are found.
            batch_size: demonstrations scored in one call.
            needed: an example without a demonstration is an error.
        """
        self.reward_model, self.demonstrations = reward_model, demonstrations
        self.batch_size, self.needed = batch_size, needed
        self._tasks: list[_Known] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> DemoRewards:
        """Return what is known so far around a copy of the model."""
        twin = copy.copy(self)
        twin.reward_model = copy.deepcopy(self.reward_model, memo)
        # Arrays of rewards are never written to.
        twin._tasks = [_Known(known.subject, dict(known.rewards)) for known in self._tasks]
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # Subjects find their examples by functions, of which some have no name to be found by.
        return {**self.__dict__, "_tasks": []}

    def look(self, task: Task) -> bool:
        """Find the demonstrations of a few of the task's examples, so that a gap shows early.

        Returns:
            Whether the task may have demonstrations: False if all of its examples have none.

        Raises:
            ValueError: one is missing and needed, cannot be written, or is of an example that the
                task does not have.
        """
        self.demonstrations.check(len(task))
        indices = _spread(len(task), _MANY)
        found = [
            len(self._rows(Subject.of_task(task), index, prompt))
            for index, prompt in zip(indices.tolist(), task.prompts(indices), strict=True)
        ]
        return any(found) or len(indices) < len(task)

    def of(self, episodes: EpisodeBatch) -> list[Floats]:
        """Return the rewards of each episode's demonstrations, `(n, K)`; n is 0 without any.

        Raises:
            ValueError: as in `look`, or the reward model is not deterministic.
            RewardModelError: the reward model failed.
        """
        known = self._about(Subject.of_episodes(episodes))
        first = known.subject.prompt_length
        indices = episodes.example_indices.tolist()
        self._score(known, dict(zip(indices, episodes.tokens[:, :first], strict=True)))
        return [known.rewards[index] for index in indices]

    def of_all(self, task: Task) -> Floats:
        """Return the rewards of all demonstrations of a task, `(n, K)`.

        Of a task with more than 256 examples, that many evenly spaced ones speak for all.

        Raises:
            ValueError: as in `of`, or there is not one demonstration.
        """
        known, indices = self._about(Subject.of_task(task)), _spread(len(task), _MANY)
        self._score(known, dict(zip(indices.tolist(), task.prompts(indices), strict=True)))
        rewards = [known.rewards[index] for index in indices.tolist()]
        if not any(len(one) for one in rewards):
            raise ValueError("no example has a demonstration: there are no rewards to compare with")
        return np.concatenate([one for one in rewards if len(one)])

    def _about(self, subject: Subject) -> _Known:
        for known in self._tasks:
            if known.subject.same_as(subject):
                return known
        self._tasks.append(_Known(subject))
        return self._tasks[-1]

    def _rows(self, subject: Subject, index: int, prompt: NDArray[np.int64]) -> Rows:
        rows = self.demonstrations.rows(subject, index, prompt)
        if self.needed and not rows:
            raise ValueError(
                f"example {index}, prompt {subject.tokenizer.decode(prompt.tolist())!r}, has no "
                "demonstration; give one in demonstrations=, or choose missing='skip' (such an "
                "example pays 0) or missing='fallback' (it aims at the mean reward of all "
                "demonstrations, or at fallback=)"
            )
        return rows

    def _score(self, known: _Known, prompts: Mapping[int, NDArray[np.int64]]) -> None:
        """Add what the demonstrations of those examples earn that were not met before."""
        found = {
            index: self._rows(known.subject, index, prompt)
            for index, prompt in prompts.items()
            if index not in known.rewards
        }
        rows = Rows(row for rows in found.values() for row in rows)
        earned = [
            self._call(Rows(rows[start : start + self.batch_size]), known.subject)
            for start in range(0, len(rows), self.batch_size)
        ]
        if rows and not any(map(len, known.rewards.values())):
            self._check_deterministic(rows, earned[0], known.subject)
        every = np.concatenate(earned) if earned else np.zeros((0, 0))
        stops = np.cumsum([len(rows) for rows in found.values()], dtype=np.int64)
        for (index, its), stop in zip(found.items(), stops.tolist(), strict=True):
            known.rewards[index] = every[stop - len(its) : stop]

    def _call(self, rows: Rows, subject: Subject) -> Floats:
        columns = score(self.reward_model, rows.batch(subject)).values()
        return np.stack(list(columns), axis=1)  # (n, K)

    def _check_deterministic(self, rows: Rows, earned: Floats, subject: Subject) -> None:
        """Score a few again, backwards: a score must depend on its own text and nothing else."""
        few = Rows(rows[: min(_TWICE, len(earned))])
        first, again = earned[: len(few)], self._call(Rows(few[::-1]), subject)[::-1]
        apart = ~np.isclose(first, again, rtol=_TOLERANCE, atol=_TOLERANCE).all(axis=1)
        if apart.any():
            row = int(apart.argmax())
            raise ValueError(
                f"reward model {describe(self.reward_model)} is not deterministic: for the "
                f"demonstration {few.batch(subject).texts[row]!r} it returned "
                f"{first[row].tolist()}, then {again[row].tolist()}; calibration compares the "
                "scores of two texts, so a score must depend on its own text alone"
            )


def _spread(length: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of the indices `0..length-1`, evenly spaced, the first among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(np.int64))
