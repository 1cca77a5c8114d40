"""Train, validation and test parts of a finite list of contexts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest

__all__ = ["SPLITS", "split_contexts"]

SPLITS = ("train", "validation", "test")


def split_contexts(count: int, split: str, seed: int = 0) -> NDArray[np.int64]:
    """Return which of `count` contexts belong to a split, in ascending order.

    A seeded shuffle deals the contexts out, three fifths to "train" and one fifth to each of the
    others, so no context occurs twice.

    Args:
        count: number of contexts, at least 5.
        split: one of `SPLITS`.
        seed: of the shuffle.

    Raises:
        ValueError: an unknown split, or so few contexts that a split would be empty.

    >>> [split_contexts(5, split).tolist() for split in SPLITS]
    [[0, 1, 3], [2], [4]]
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}.{suggest(str(split), SPLITS)}")
    if count < 5:
        raise ValueError(f"three splits need at least 5 contexts, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    fifth = count // 5
    parts = (order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth])
    return np.sort(parts[SPLITS.index(split)]).astype(np.int64)
