"""Recorded episodes as arrays: what demonstrations, offline agents and files have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.types import Role

__all__ = ["EpisodeDataset"]


@dataclass(frozen=True, repr=False)
class EpisodeDataset:
    """B recorded episodes.

    Attributes:
        tokens: `(B, L)` int64, the final observations.
        roles: `(B, L)` int8, who wrote each column, see `text_envs.Role`.
        rewards: `(B, L)` float64, on the column of the action that earned them.
        example_indices: `(B,)` int64, which item of the task each episode started from.
        finish_reasons: why each episode ended.
        truncated: `(B,)` bool, cut by an outer limit; the other episodes terminated.
        columns: further facts, one value an episode, for example which player wrote it.
        metadata: facts about all episodes, plain JSON values.
    """

    tokens: NDArray[np.int64]
    roles: NDArray[np.int8]
    rewards: NDArray[np.float64]
    example_indices: NDArray[np.int64]
    finish_reasons: tuple[str, ...]
    truncated: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill in what was left out."""
        if len(self.truncated) == 0 and len(self.tokens):
            object.__setattr__(self, "truncated", np.zeros(len(self.tokens), dtype=bool))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether each episode came to its own end, `(B,)`."""
        return ~self.truncated

    @property
    def action_mask(self) -> NDArray[np.bool_]:
        """Which columns the agent wrote, `(B, L)`."""
        mask: NDArray[np.bool_] = self.roles == int(Role.ACTION)
        return mask

    @property
    def num_steps(self) -> int:
        """Number of actions in all episodes."""
        return int(self.action_mask.sum())

    @property
    def returns(self) -> NDArray[np.float64]:
        """Sum of rewards of each episode, `(B,)`."""
        returns: NDArray[np.float64] = self.rewards.sum(axis=1)
        return returns

    def select(self, indices: Any) -> EpisodeDataset:
        """Return the episodes `indices` (integers, a slice or a boolean mask), in that order."""
        chosen = np.arange(len(self))[indices]
        return replace(
            self,
            tokens=self.tokens[chosen],
            roles=self.roles[chosen],
            rewards=self.rewards[chosen],
            example_indices=self.example_indices[chosen],
            finish_reasons=tuple(self.finish_reasons[i] for i in chosen.tolist()),
            truncated=self.truncated[chosen],
            columns={name: values[chosen] for name, values in self.columns.items()},
        )

    def __repr__(self) -> str:
        mean = f", mean return {self.returns.mean():.3f}" if len(self) else ""
        return f"EpisodeDataset({len(self)} episodes of up to {self.tokens.shape[1]} columns{mean})"
