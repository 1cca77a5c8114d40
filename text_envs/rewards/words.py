"""What reward models over words share: episodes as words or ids, their references, counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import EpisodeBatch
from text_envs.tokens.builtin import WordTokenizer

__all__ = [
    "count_words",
    "encode_texts",
    "prompt_ids",
    "references",
    "response_ids",
    "response_words",
    "split_words",
    "weigh",
]


def response_ids(episodes: EpisodeBatch, tokenizer: WordTokenizer) -> NDArray[np.int64]:
    """Return what the agents wrote as ids of `tokenizer`, `(B, T)`, padded.

    Ids are taken as they are where the episodes were written with this tokenizer; otherwise
    their texts are encoded with it.
    """
    if episodes.tokenizer == tokenizer:
        return episodes.response
    return encode_texts(episodes.texts, tokenizer)


def prompt_ids(episodes: EpisodeBatch, tokenizer: WordTokenizer) -> NDArray[np.int64]:
    """Return the prompts as ids of `tokenizer`, `(B, P)`, padded."""
    if episodes.tokenizer == tokenizer:
        return episodes.tokens[:, : episodes.prompt_length]
    return encode_texts(episodes.prompts, tokenizer)


def encode_texts(texts: Sequence[str], tokenizer: WordTokenizer) -> NDArray[np.int64]:
    """Return texts as right-padded ids, `(B, T)` with T at least 1."""
    rows = [tokenizer.encode(text) for text in texts]
    ids = np.full((len(rows), max(map(len, rows), default=0) or 1), tokenizer.pad_id)
    for row, words in zip(ids, rows, strict=True):
        row[: len(words)] = words
    return ids


def count_words(ids: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return how often each of the ids below `size` stands in each row, `(B, size)`.

    Args:
        ids: `(B, T)`; ids from `size` on (end, padding, unknown words) are not counted.
        size: number of words.
    """
    rows = np.arange(len(ids))[:, None] * (size + 1)
    flat = (np.minimum(ids, size) + rows).reshape(-1)
    counts = np.bincount(flat, minlength=len(ids) * (size + 1)).reshape(len(ids), size + 1)
    return counts[:, :size]


def weigh(inputs: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted sum of each row of `inputs` `(B, F)` with `weights` `(F,)`: `(B,)`.

    Unlike a matrix product, whose order of additions depends on the number of rows, it gives a
    row the same bits alone and in a batch.
    """
    return np.asarray((inputs * weights).sum(axis=1), dtype=np.float64)


def split_words(text: str) -> list[str]:
    """Return the words of a text, punctuation left out."""
    return [word for word in WordTokenizer.split(text) if word[0].isalnum()]


def response_words(episodes: EpisodeBatch) -> list[list[str]]:
    """Return the words of each response, punctuation left out."""
    tokenizer = episodes.tokenizer
    if not isinstance(tokenizer, WordTokenizer):
        return [split_words(text) for text in episodes.texts]
    words, known = tokenizer.words, len(tokenizer.words)
    return [
        [words[i] for i in row if i < known and words[i][0].isalnum()]
        for row in episodes.response.tolist()
    ]


def references(episodes: EpisodeBatch) -> list[tuple[str, ...]]:
    """Return the references of each episode's example.

    Raises:
        ValueError: an example has none; the message says which.
    """
    found = [example.references for example in episodes.examples]
    for row, texts in enumerate(found):
        if not texts:
            raise ValueError(
                f"example {int(episodes.example_indices[row])} has no references, and this reward "
                "compares the text with them"
            )
    return found
