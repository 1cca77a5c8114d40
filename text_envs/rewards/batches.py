"""Rows of a batch of episodes as a batch of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from text_envs.episodes.types import EpisodeBatch

__all__ = ["select"]


def select(episodes: EpisodeBatch, rows: Sequence[int]) -> EpisodeBatch:
    """Return the episodes of some rows, with the same prompts, examples and generators.

    Args:
        episodes: B finished episodes.
        rows: which of them, in the order wanted.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    rngs = episodes.rngs
    return EpisodeBatch(
        episodes.tokens[chosen],
        episodes.roles[chosen],
        prompt_length=episodes.prompt_length,
        tokenizer=episodes.tokenizer,
        example_indices=episodes.example_indices[chosen],
        finish_reasons=[episodes.finish_reasons[row] for row in chosen.tolist()],
        get_example=episodes.get_example,
        rngs=None if rngs is None else [rngs[row] for row in chosen.tolist()],
    )
