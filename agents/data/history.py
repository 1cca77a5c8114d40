"""Everything that was ever sampled, with the goal that it reached: arrays that grow."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["History", "Relabelled"]

_FIELDS = ("tokens", "columns", "first", "length", "goals", "examples")


@dataclass(frozen=True)
class Relabelled:
    """b texts to learn from, each with the goal that it reached.

    Attributes:
        tokens: `(b, L)` int64, the final observations.
        columns: `(b, T)` int64, the column before each action.
        actions: `(b, T)` int64.
        mask: bool `(b, T)`, the actions to learn: all, or those of a part.
        goals: `(b,)` int64, what each text reached.
    """

    tokens: Tensor
    columns: Tensor
    actions: Tensor
    mask: Tensor
    goals: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, index: Tensor) -> Relabelled:
        """Return the texts `index`, cut to the longest of them."""
        chosen = {f.name: getattr(self, f.name)[index] for f in fields(self)}
        longest = int((chosen["mask"].any(dim=0)).nonzero().max()) + 1
        for name in ("columns", "actions", "mask"):
            chosen[name] = chosen[name][:, :longest]
        return Relabelled(**chosen)


class History:
    """The texts of all iterations.

    Rows are int32 and the arrays are enlarged by doubling, so that adding costs what is added.

    Args:
        num_columns: columns L of an observation.
        max_actions: most actions T of a text.
    """

    def __init__(self, num_columns: int, max_actions: int) -> None:
        self._count = 0
        self._arrays = {
            "tokens": np.zeros((0, num_columns), dtype=np.int32),
            "columns": np.zeros((0, max_actions), dtype=np.int32),
            **{name: np.zeros(0, dtype=np.int32) for name in _FIELDS[2:]},
        }

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> NDArray[np.int32]:
        """Return an array of all rows: `goals`, `first`, `length`, `examples`, `tokens`, ..."""
        if name not in _FIELDS:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        array: NDArray[np.int32] = self._arrays[name][: self._count]
        return array

    def add(
        self,
        tokens: NDArray[Any],
        columns: NDArray[Any],
        first: NDArray[Any],
        length: NDArray[Any],
        goals: NDArray[Any],
        examples: NDArray[Any],
    ) -> None:
        """Append B texts.

        Args:
            tokens: `(B, L)` final observations.
            columns: `(B, t)` the column before each action, t at most T.
            first: `(B,)` the first action to learn from.
            length: `(B,)` the number of actions, above `first`.
            goals: `(B,)` what each text reached.
            examples: `(B,)` which question each is about.
        """
        given = (tokens, columns, first, length, goals, examples)
        stop = self._count + len(tokens)
        for name, values in zip(_FIELDS, given, strict=True):
            array = self._arrays[name]
            if stop > len(array):
                larger = np.zeros((max(stop, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
                larger[: self._count] = array[: self._count]
                self._arrays[name] = array = larger
            if name == "columns":
                array[self._count : stop, : values.shape[1]] = values
            else:
                array[self._count : stop] = values
        self._count = stop

    def draw(self, limit: int) -> NDArray[np.int64]:
        """Return up to `limit` different rows, uniformly; from numpy's global generator."""
        if self._count <= limit:
            return np.arange(self._count)
        return np.random.permutation(self._count)[:limit]

    def batch(self, rows: NDArray[np.int64], device: torch.device | str = "cpu") -> Relabelled:
        """Return the texts `rows` `(b,)` as tensors, cut to the longest of them."""
        length = self.length[rows]
        longest = int(length.max(initial=0))
        tokens = self.tokens[rows].astype(np.int64)
        columns = self.columns[rows, :longest].astype(np.int64)
        steps = np.arange(longest)
        mask = (steps >= self.first[rows][:, None]) & (steps < length[:, None])  # (b, T)
        # An action stands in the column after the one that was last when it was chosen.
        actions = np.take_along_axis(tokens, np.minimum(columns + 1, tokens.shape[1] - 1), axis=1)
        return Relabelled(
            *(
                torch.from_numpy(array).to(device)
                for array in (tokens, columns, actions, mask, self.goals[rows].astype(np.int64))
            )
        )

    def state(self) -> dict[str, NDArray[np.int32]]:
        """Return the arrays, for a checkpoint."""
        return {name: getattr(self, name).copy() for name in _FIELDS}

    def set_state(self, state: dict[str, NDArray[np.int32]]) -> None:
        """Take over what `state` returned."""
        self._arrays = {name: np.array(state[name], dtype=np.int32) for name in _FIELDS}
        self._count = len(self._arrays["tokens"])
