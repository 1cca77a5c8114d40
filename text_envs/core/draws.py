"""What each start of an episode is drawn from: its example, and a seed for start plug-ins.

A row draws from its own generator. Rows of a group draw from a seed that they share and from how
many starts they have had: their k-th episodes start alike, however early each of them begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from text_envs.core.copying import OwnsArrays

__all__ = ["Generators", "StartDraws"]

# Examples are drawn in blocks: one call of a generator costs as much as a whole array step.
_BLOCK = 32
_NO_GROUP = -1

Rows = NDArray[np.int64]


class Generators(Sequence[np.random.Generator]):
    """The generators of some rows, which remember how those stood that were asked for.

    What a task or a reward model draws in a step that then fails is taken back with the step;
    looking at a generator's state costs as much as a whole turn of a quick task, so only who draws
    pays for it.
    """

    def __init__(self, rngs: Sequence[np.random.Generator], rows: Sequence[int]) -> None:
        self._rngs, self._rows = rngs, rows
        self._before: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> np.random.Generator: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.random.Generator]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[index]
        rng = self._rngs[row]
        # Whoever counts draws instead of making them stands in for a generator without a state.
        if row not in self._before and isinstance(rng, np.random.Generator):
            self._before[row] = rng.bit_generator.state
        return rng

    def take_back(self) -> None:
        """Put the generators back to how they were before anybody drew."""
        for row, state in self._before.items():
            self._rngs[row].bit_generator.state = state


class StartDraws(OwnsArrays):
    """The draws of N rows.

    Attributes:
        drawn: `(N, 32)` examples drawn ahead.
        next: `(N,)` which of them comes next.
        group: `(N,)` the seed that the rows of a group share, -1 for a row on its own.
        block: `(N,)` how many blocks a row of a group has begun.
    """

    ARRAYS = ("drawn", "next", "group", "block")

    def __init__(self, num_envs: int, num_examples: int) -> None:
        """Start with nothing drawn and no groups."""
        self.num_examples = num_examples
        self.drawn = np.zeros((num_envs, _BLOCK), dtype=np.int64)
        self.next = np.full(num_envs, _BLOCK, dtype=np.int64)
        self.group = np.full(num_envs, _NO_GROUP, dtype=np.int64)
        self.block = np.zeros(num_envs, dtype=np.int64)

    def drop(self, rows: Rows | int) -> None:
        """Forget what was drawn ahead for `rows`, which have got other generators."""
        self.next[rows] = _BLOCK

    def set_groups(self, rows: Rows, size: int | None, rngs: Sequence[np.random.Generator]) -> None:
        """Let each `size` neighbours among `rows` share their starts from now on.

        Args:
            rows: `(B,)`.
            size: a divisor of B; None or 1 leaves each row on its own.
            rngs: of all rows; the first row of a group draws its seed.
        """
        self.drop(rows[self.group[rows] != _NO_GROUP])
        self.group[rows] = _NO_GROUP
        if size is None or size == 1:
            return
        self.drop(rows)
        seeds = [int(rngs[row].integers(2**62)) for row in rows[::size].tolist()]
        self.group[rows] = np.repeat(seeds, size)
        self.block[rows] = 0

    def examples(self, rows: Rows, rngs: Sequence[np.random.Generator]) -> NDArray[np.int64]:
        """Return a uniformly drawn example for each of `rows`, `(B,)`."""
        for row in rows[self.next[rows] == _BLOCK].tolist():
            rng = rngs[row]
            if self.group[row] != _NO_GROUP:
                self.block[row] += 1
                rng = np.random.default_rng([self.group[row], self.block[row]])
            self.drawn[row] = rng.integers(self.num_examples, size=_BLOCK)
            self.next[row] = 0
        drawn: NDArray[np.int64] = self.drawn[rows, self.next[rows]]
        self.next[rows] += 1
        return drawn

    def seeds(self, rows: Rows, rngs: Sequence[np.random.Generator]) -> list[int]:
        """Return a seed for each start just drawn, the same throughout a group."""
        seeds = []
        for row in rows.tolist():
            rng = rngs[row]
            if self.group[row] != _NO_GROUP:
                rng = np.random.default_rng([self.group[row], self.block[row], self.next[row]])
            seeds.append(int(rng.integers(2**62)))
        return seeds
