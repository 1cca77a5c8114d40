"""What can be plugged into an environment beside its reward model: token rewards, start states.

`gymnasium.make(id, shaping=..., starts=...)` and `make_vec` take them. Both see all rows that need
them at once, so a plug-in that runs a language model makes one batched call a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from text_envs.core.rows import TokenRows
from text_envs.core.task import Task

__all__ = ["Shaping", "Starts"]


class Shaping(Protocol):
    """A reward for every token the agent writes, the ledger's term `shaping`."""

    def bind(self, task: Task) -> None:
        """Check that the plug-in fits `task`; called once, when an environment is built."""
        ...

    def shape(
        self, tokens: NDArray[np.int64], actions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the rewards `(B,)` of writing `actions`; an exception leaves the step undone.

        Args:
            tokens: `(B, L)` the observations in which the agent acted.
            actions: `(B,)` what it wrote; an id that may not be written counts as the end token.
            rows: `(B,)` stable names of the rows, for caches.
        """
        ...


class Starts(Protocol):
    """A distribution of start states: tokens written before the agent's first."""

    def bind(self, task: Task) -> None:
        """Check that the plug-in fits `task`; called once, when an environment is built."""
        ...

    def prefixes(self, engine: TokenRows, rows: NDArray[np.int64]) -> Sequence[Sequence[int]]:
        """Return tokens, perhaps none, for each of `rows`, which have just begun an episode.

        What is random should come from `engine.start_seeds(rows)`: then seeds repeat, a row of a
        batch starts as a single environment does, and rows of a group start alike.

        They are written with the role `Role.PREFIX`: they are not the agent's actions.
        """
        ...
