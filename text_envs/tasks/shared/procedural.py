"""Contexts drawn from a grammar, each of which belongs to exactly one split."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from text_envs.episodes.errors import suggest
from text_envs.tasks.shared.splits import SPLITS

__all__ = ["DEFAULT_SIZES", "draw_contexts"]

# Contexts of a split unless asked otherwise: making them takes a fraction of a second.
DEFAULT_SIZES = {"train": 2048, "validation": 256, "test": 256}

T = TypeVar("T")

# Eight contexts in ten are for training; which, only their key decides.
_PARTS = 10
_SPLIT_OF_PART = (0, 0, 0, 0, 0, 0, 0, 0, 1, 2)


def draw_contexts(
    draw: Callable[[np.random.Generator], T],
    key: Callable[[T], str],
    *,
    split: str,
    size: int,
    seed: int = 0,
) -> list[T]:
    """Return `size` contexts of a split.

    Item i comes from `default_rng([seed, split, i])` alone, so a longer list begins with the
    shorter one. A drawn context whose key belongs to another split is drawn again.

    Args:
        draw: makes one context.
        key: names it; contexts with one key always fall into the same split.
        split: one of `text_envs.tasks.shared.splits.SPLITS`.
        size: how many, at least 1.
        seed: of the draws; the division into splits does not depend on it.

    Raises:
        ValueError: an unknown split, or a size that is no positive integer.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}.{suggest(str(split), SPLITS)}")
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"size must be an integer of at least 1, got {size!r}")
    number = SPLITS.index(split)
    contexts = []
    for index in range(size):
        rng = np.random.default_rng([seed, number, index])
        context = draw(rng)
        while _SPLIT_OF_PART[zlib.crc32(key(context).encode()) % _PARTS] != number:
            context = draw(rng)
        contexts.append(context)
    return contexts
