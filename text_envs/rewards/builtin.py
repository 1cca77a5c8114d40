"""Reward models that need no learned weights: a constant, a length, and weighted sums of others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from text_envs.rewards.base import RewardModel, describe, score
from text_envs.types import EpisodeBatch

__all__ = ["Constant", "Length", "WeightedSum"]


class Constant:
    """The same reward for every episode; useful for measuring everything except the reward."""

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


class Length:
    """Tokens written, end of text not counted; or the distance to a target length.

    Without `target` the reward is `scale * n`; with it, `-scale * |n - target|`.
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


class WeightedSum:
    """Several reward models at once; the ledger shows each weighted part under its name."""

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
        self.components = tuple(self.parts)
        self.name = " + ".join(f"{w:g} {describe(m)}" for w, m in self.parts.values())

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B, K)`, one weighted column a part."""
        columns = [
            weight * sum(score(model, episodes).values(), start=np.zeros(len(episodes)))
            for weight, model in self.parts.values()
        ]
        return np.stack(columns, axis=1)
