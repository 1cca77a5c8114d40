"""Recorded episodes as arrays: what demonstrations, offline agents and files have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Role
from text_envs.episodes.validation import normalised
from text_envs.episodes.writing import save

__all__ = ["EpisodeDataset", "concatenate"]


@dataclass(frozen=True, repr=False, eq=False)
class EpisodeDataset:
    """B recorded episodes.

    What contradicts itself cannot be built: rows of different lengths, an unknown role, a reward
    that is not finite or not on an action, a hole between two written columns, an episode without
    an action. The error names the file, the episode and the field.

    Attributes:
        tokens: `(B, L)` int64, the final observations.
        roles: `(B, L)` int8, who wrote each column, see `text_envs.Role`.
        rewards: `(B, L)` float64, on the column of the action that earned them.
        example_indices: `(B,)` int64, which item of the task each episode started from.
        finish_reasons: why each episode ended.
        truncated: `(B,)` bool, cut by an outer limit; the other episodes terminated.
        columns: further facts, one value an episode, for example which player wrote it.
        metadata: facts about all episodes, plain JSON values, see `text_envs.core.facts`.
        source: the file that the episodes were read from, for messages.

    Raises:
        DatasetError: see above.
    """

    tokens: NDArray[np.int64]
    roles: NDArray[np.int8]
    rewards: NDArray[np.float64]
    example_indices: NDArray[np.int64]
    finish_reasons: tuple[str, ...]
    truncated: NDArray[np.bool_] = cast(Any, None)  # which becomes False for every episode
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        """Bring every field to its type and check that they agree."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name, value in normalised(given).items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        """Return whether all fields but `source` are equal, bit by bit where they are arrays."""
        if not isinstance(other, EpisodeDataset):
            return NotImplemented
        arrays = ("tokens", "roles", "rewards", "example_indices", "truncated")
        return (
            self.finish_reasons == other.finish_reasons
            and self.metadata == other.metadata
            and all(np.array_equal(getattr(self, n), getattr(other, n)) for n in arrays)
            and _equal_columns(self.columns, other.columns)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays can be written to

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
        index = indices if isinstance(indices, slice) else np.atleast_1d(indices)
        if isinstance(index, np.ndarray) and not index.size:
            index = index.astype(np.int64)  # an empty list has no type of its own
        chosen = np.arange(len(self))[index]
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

    def filter(
        self,
        predicate: Callable[[EpisodeDataset], Any] | None = None,
        *,
        min_return: float | None = None,
        top: float | None = None,
    ) -> EpisodeDataset:
        """Return the episodes that pass every condition, in their order.

        Args:
            predicate: maps the data set to a boolean mask `(B,)`, for example
                `lambda d: d.columns["policy"] == "expert"`.
            min_return: the lowest return that passes.
            top: share in (0, 1] of what the other conditions left, by return, rounded up; of equal
                returns the earlier episode.

        Raises:
            ValueError: `top` is out of range, or the mask of another shape or type.
            DatasetError: no episode is left.
        """
        if top is not None and not 0 < top <= 1:
            raise ValueError(f"top must lie above 0 and be at most 1, got {top!r}")
        passing = np.ones(len(self), dtype=bool)
        if predicate is not None:
            mask = np.asarray(predicate(self))
            if mask.dtype != np.bool_ or mask.shape != (len(self),):
                raise ValueError(
                    f"predicate must return booleans of shape ({len(self)},), got {mask.dtype} of "
                    f"shape {mask.shape}"
                )
            passing &= mask
        if min_return is not None:
            passing &= self.returns >= min_return
        chosen = np.flatnonzero(passing)
        if not len(chosen):
            asked = [f"min_return={min_return}"] * (min_return is not None)
            asked += ["predicate"] * (predicate is not None)
            best = f"; the highest return is {self.returns.max()}" if len(self) else ""
            raise DatasetError(
                f"{self.source or 'data set'}: none of {len(self)} episodes passes "
                f"{' and '.join(asked) or 'the filter'}{best}"
            )
        if top is not None:
            keep = int(np.ceil(round(top * len(chosen), 9)))
            order = np.argsort(-self.returns[chosen], kind="stable")[:keep]
            chosen = np.sort(chosen[order])
        return self.select(chosen)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the episodes to one file, see `text_envs.datasets.save`."""
        return save(self, path)

    def __repr__(self) -> str:
        mean = f", mean return {self.returns.mean():.3f}" if len(self) else ""
        name = self.metadata.get("env_id") or self.metadata.get("task")
        about = f" of {name}" if name else ""
        return (
            f"EpisodeDataset({len(self)} episodes{about}, {self.num_steps} actions in up to "
            f"{self.tokens.shape[1]} columns{mean})"
        )


def concatenate(parts: list[EpisodeDataset]) -> EpisodeDataset:
    """Return episodes that were recorded together, one part after another.

    Args:
        parts: at least one, with the same columns; the metadata are those of the first.
    """
    first = parts[0]
    return replace(
        first,
        tokens=np.concatenate([part.tokens for part in parts]),
        roles=np.concatenate([part.roles for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts]),
        example_indices=np.concatenate([part.example_indices for part in parts]),
        finish_reasons=tuple(reason for part in parts for reason in part.finish_reasons),
        truncated=np.concatenate([part.truncated for part in parts]),
        columns={
            name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns
        },
    )


def _equal_columns(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    return one.keys() == other.keys() and all(
        values.dtype.kind == other[name].dtype.kind
        and np.array_equal(values, other[name], equal_nan=values.dtype.kind == "f")
        for name, values in one.items()
    )
