"""Rows of a batch of episodes as a batch of their own, and as whole texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from text_envs.episodes.types import EpisodeBatch
from text_envs.tokens.protocol import end_ids

__all__ = ["select", "whole_texts"]


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


def whole_texts(episodes: EpisodeBatch) -> list[str]:
    """Return each prompt with what the agent wrote as one text.

    The tokens of both are decoded in one go: decoded apart, nobody would know whether a space
    stands between them. Replies of the environment are left out, as in `EpisodeBatch.texts`, and
    so are padding, begin and end tokens.
    """
    tokenizer, first = episodes.tokenizer, episodes.prompt_length
    ids = np.concatenate([episodes.tokens[:, :first], episodes.response], axis=1)  # (B, L)
    others = (tokenizer.pad_id, *end_ids(tokenizer))
    silent = [*others, *(() if tokenizer.bos_id is None else (tokenizer.bos_id,))]
    shown = ~np.isin(ids, silent)
    return [tokenizer.decode(row[keep].tolist()) for row, keep in zip(ids, shown, strict=True)]
