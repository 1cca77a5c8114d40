"""In which order offline algorithms see the episodes; it can be saved and resumed."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BatchOrder"]

logger = logging.getLogger(__name__)


class BatchOrder:
    """Endless minibatches of nearly equal numbers of actions, in an order that can be resumed.

    Each pass cuts a permutation into minibatches of nearly the same number of *actions*, not of
    episodes: a mean over the actions of a minibatch then weighs every action of the data alike,
    and each update costs the same. So `batch_size` is the mean number of episodes.

    With a `pool` above 1, that many minibatches are sorted by length together. It spares padding,
    but `ActionLM.encode` spares most of it anyway, and lengths are rarely innocent: the longest
    episodes of a maze are those that lost, and a minibatch of nothing else is a poor sample.

    Args:
        lengths: `(B,)` actions of each episode, at least 1.
        batch_size: episodes a minibatch, on average.
        seed: of the order; None for a different one each time.
        pool: minibatches sorted by length together; 1 for a plain random order.

    Raises:
        ValueError: `batch_size` or `pool` is below 1, or there are no episodes.
    """

    def __init__(
        self, lengths: NDArray[np.int64], batch_size: int, seed: int | None = None, pool: int = 1
    ) -> None:
        if batch_size < 1 or pool < 1 or not len(lengths):
            raise ValueError(
                f"batch_size, pool and the number of episodes must be at least 1, got {batch_size},"
                f" {pool} and {len(lengths)}"
            )
        self.lengths, self.batch_size, self.pool = np.asarray(lengths), batch_size, pool
        self.rng = np.random.default_rng(seed)
        self._begin()

    def _begin(self) -> None:
        """Draw the next pass."""
        self._start = self.rng.bit_generator.state  # with it the pass can be drawn again
        order, size = self.rng.permutation(len(self.lengths)), self.batch_size
        batches: list[NDArray[np.int64]] = []
        step = size * self.pool if self.pool > 1 else len(order)
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            if self.pool > 1:
                chosen = chosen[np.argsort(self.lengths[chosen], kind="stable")]
            batches += _equal_parts(chosen, self.lengths[chosen], -(-len(chosen) // size))
        if self.pool > 1:
            batches = [batches[i] for i in self.rng.permutation(len(batches))]
        self._batches, self.position = batches, 0

    def cut(self, batch_size: int) -> None:
        """Go on with minibatches of another size, at a new pass."""
        self.batch_size = batch_size
        self._begin()

    def __len__(self) -> int:
        """Return the number of minibatches of the present pass."""
        return len(self._batches)

    def next(self) -> NDArray[np.int64]:
        """Return the episodes of the next minibatch."""
        if self.position == len(self._batches):
            self._begin()
        self.position += 1
        return self._batches[self.position - 1]

    def state(self) -> dict[str, Any]:
        """Return plain values from which `set_state` goes on with the same minibatches."""
        facts = [len(self.lengths), int(self.lengths.sum()), self.batch_size, self.pool]
        return {"rng": self._start, "position": self.position, "data": facts}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; with other data or settings, at a new pass."""
        self.rng.bit_generator.state = state["rng"]
        self._begin()
        if state["data"] == self.state()["data"]:
            self.position = state["position"]
        else:
            logger.warning(
                "other data or another batch_size than saved (episodes, actions, batch_size, pool: "
                "%s, now %s): training goes on with a new pass, so not exactly as the saved run",
                state["data"],
                self.state()["data"],
            )


def _equal_parts(
    items: NDArray[np.int64], weights: NDArray[np.int64], count: int
) -> list[NDArray[np.int64]]:
    """Cut `items` into at most `count` consecutive parts of nearly equal total weight."""
    middle = weights.cumsum() - weights / 2
    part = np.minimum((middle * (count / weights.sum())).astype(np.int64), count - 1)
    return np.split(items, np.flatnonzero(np.diff(part)) + 1)
