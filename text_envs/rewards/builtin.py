"""Reward models that need no learned weights: a constant, a length, and weighted sums of others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from text_envs.core.ledger import check_names
from text_envs.core.reward import RewardModel, Scored, bind, describe, score_with_details
from text_envs.core.task import Task
from text_envs.episodes.types import EpisodeBatch

__all__ = ["Constant", "Length", "WeightedSum"]


class Constant:
    """The same reward for every episode; useful for measuring everything except the reward.

    >>> from text_envs.rewards import resolve
    >>> resolve("constant", value=0.5)
    Constant(0.5)
    """

    name = "constant"

    def __init__(self, value: float = 1.0) -> None:
        """Set the reward.

        Args:
            value: what every episode gets; finite.
        """
        if not np.isfinite(value):
            raise ValueError(f"constant reward must be finite, got {value!r}")
        self.value = float(value)

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`."""
        return np.full(len(episodes), self.value)

    def __repr__(self) -> str:
        return f"Constant({self.value})"


class Length:
    """Tokens written, end of text not counted; or the distance to a target length.

    Without `target` the reward is `scale * n`; with it, `-scale * |n - target|`.

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make("text_envs/Toy-v0", reward="length", reward_kwargs={"target": 3})
    >>> observation, info = env.reset(seed=0)
    >>> for token in (0, 1, 2):  # two words and the end
    ...     observation, reward, *_ = env.step(token)
    >>> float(reward)
    -1.0
    """

    name = "length"

    def __init__(self, target: int | None = None, scale: float = 1.0) -> None:
        """Set the target.

        Args:
            target: wanted number of tokens, or None to pay for every token.
            scale: reward per token.
        """
        self.target = target
        self.scale = float(scale)

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`."""
        lengths = episodes.lengths.astype(np.float64)
        if self.target is None:
            return self.scale * lengths
        return -self.scale * np.abs(lengths - self.target)

    def __repr__(self) -> str:
        return f"Length(target={self.target}, scale={self.scale})"


class WeightedSum:
    """Several reward models at once; the ledger shows each weighted part under its name.

    A part that is itself made of components counts as their sum; its components, and whatever
    else it tells in its details, stand in the details as `part/name`, not weighted.

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make("text_envs/Toy-v0", reward={"length": 2.0, "constant": -1.0})
    >>> observation, info = env.reset(seed=0)
    >>> for token in (0, 1, 2):
    ...     observation, reward, *_, info = env.step(token)
    >>> float(reward), info["reward_terms"]
    (3.0, {'length': 4.0, 'constant': -1.0})
    """

    def __init__(self, parts: Mapping[str, tuple[float, RewardModel]]) -> None:
        """Name and weigh the parts.

        Args:
            parts: `{name: (weight, reward_model)}`.

        Raises:
            ValueError: no part, or a weight that is not finite.
        """
        if not parts:
            raise ValueError("a weighted sum of reward models needs at least one part, got none")
        for name, (weight, _) in parts.items():
            if not np.isfinite(weight):
                raise ValueError(f"weight of reward {name!r} must be finite, got {weight!r}")
        self.parts = {name: (float(weight), model) for name, (weight, model) in parts.items()}
        self.components = check_names(self.parts)
        self.name = " + ".join(f"{w:g} {describe(m)}" for w, m in self.parts.values())

    def bind(self, task: Task) -> None:
        """Show every part the task."""
        for _, model in self.parts.values():
            bind(model, task)

    def __call__(self, episodes: EpisodeBatch) -> Scored:
        """Return `(B, K)`, one weighted column a part."""
        columns, details = [], {}
        for part, (weight, model) in self.parts.items():
            ledger, told = score_with_details(model, episodes)
            columns.append(weight * sum(ledger.values(), start=np.zeros(len(episodes))))
            parts = told if list(ledger) == ["task"] else {**told, **ledger}
            details.update({f"{part}/{name}": column for name, column in parts.items()})
        return Scored(np.stack(columns, axis=1), details)

    def __repr__(self) -> str:
        return f"WeightedSum({self.parts!r})"
