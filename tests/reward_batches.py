"""Finished episodes with given texts, for the tests of reward models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from text_envs import EpisodeBatch, Example, Role
from text_envs.tokenizers import Tokenizer, WordTokenizer

WORDS = WordTokenizer("a the dog dogs cat runs run park in film movie good bad . , !".split())


def batch(
    texts: Sequence[str],
    references: Sequence[Sequence[str]] | None = None,
    *,
    prompts: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    tokenizer: Tokenizer = WORDS,
) -> EpisodeBatch:
    """Return one episode a text, about one example each."""
    count = len(texts)
    prompts = ["a film"] * count if prompts is None else prompts
    examples = [
        Example(
            prompts[row],
            tuple(references[row]) if references is not None else (),
            metadata[row] if metadata is not None else {},
        )
        for row in range(count)
    ]
    before = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    after = [tokenizer.encode(text) for text in texts]
    start = max(map(len, before))
    tokens = np.full((count, start + max(map(len, after)) + 1), tokenizer.pad_id)
    roles = np.zeros(tokens.shape, dtype=np.int8)
    for row in range(count):
        tokens[row, start - len(before[row]) : start] = before[row]
        roles[row, start - len(before[row]) : start] = Role.PROMPT
        written = [*after[row], tokenizer.eos_id]
        tokens[row, start : start + len(written)] = written
        roles[row, start : start + len(written)] = Role.ACTION
    return EpisodeBatch(
        tokens,
        roles,
        prompt_length=start,
        tokenizer=tokenizer,
        example_indices=np.arange(count),
        finish_reasons=["stop"] * count,
        get_example=lambda index: examples[index],
    )
