"""Finding observations among many, without a Python object for each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ObservationIndex"]

# Rows hashed at a time: the products take 8 bytes a column.
_CHUNK = 2**16


class ObservationIndex:
    """The number of each row of an array of observations.

    Rows are sorted by a 64-bit hash and compared in full after the search, so that an answer is
    never wrong; should two rows share a hash, another one is chosen.
    """

    def __init__(self, observations: NDArray[Any], pad_id: int) -> None:
        """Sort the rows.

        Args:
            observations: `(N, L)`.
            pad_id: for messages.
        """
        self._observations, self._pad_id = observations, pad_id
        for seed in range(64):
            rng = np.random.default_rng(seed)
            self._factors = rng.integers(2**63, size=observations.shape[1], dtype=np.uint64)
            self._factors = self._factors * np.uint64(2) + np.uint64(1)
            keys = self._hash(observations)
            self._order = np.argsort(keys, kind="stable")
            self._keys = keys[self._order]
            same = np.flatnonzero(self._keys[1:] == self._keys[:-1])
            one, other = observations[self._order[same]], observations[self._order[same + 1]]
            if (one == other).all():
                self._twice = frozenset(self._keys[same].tolist())
                return
        raise AssertionError("64 hash functions in a row had collisions")

    def _hash(self, observations: NDArray[Any]) -> NDArray[np.uint64]:
        keys = np.empty(len(observations), dtype=np.uint64)
        for first in range(0, len(observations), _CHUNK):
            part = slice(first, first + _CHUNK)
            keys[part] = (observations[part].astype(np.uint64) * self._factors).sum(axis=1)
        return keys

    def find(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Return the row numbers `(B,)` of observations `(B, L)`.

        Raises:
            ValueError: another shape; an observation that is not among the rows; one that two
                different pasts end in, so that it does not tell what to do next.
        """
        observations = np.asarray(observations)
        columns = self._observations.shape[1]
        if observations.ndim != 2 or observations.shape[1] != columns:
            raise ValueError(
                f"observations must have shape (B, {columns}), got {observations.shape}"
            )
        keys = self._hash(observations)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        rows = self._order[at]
        known = (self._observations[rows] == observations).all(axis=1)
        if not known.all():
            index = int((~known).argmax())
            raise ValueError(
                f"observation {index} is no state of this tree: {self._show(observations[index])} "
                "(it is finished, or belongs to another task)"
            )
        if self._twice:
            for index, key in enumerate(keys.tolist()):
                if key in self._twice:
                    raise ValueError(
                        f"observation {index} can come about in two ways that its reader could "
                        f"tell apart: {self._show(observations[index])}; read the arrays by node"
                    )
        return rows

    def _show(self, observation: NDArray[Any]) -> str:
        tokens = observation[observation != self._pad_id].tolist()
        shown = tokens if len(tokens) <= 20 else [*tokens[:10], "...", *tokens[-10:]]
        return f"tokens [{', '.join(map(str, shown))}]"
