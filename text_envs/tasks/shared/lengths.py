"""How many columns prompts need, found from the prompts themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example
from text_envs.tokens.chat import Chat
from text_envs.tokens.encoding import prompt_ids
from text_envs.tokens.protocol import Tokenizer

__all__ = ["as_questions", "columns_for", "fit_prompts"]

logger = logging.getLogger(__name__)

_MOST = 0.95  # the share of prompts that must fit
_FAR = 2.0  # how much longer than these the longest may be without being left out
_SMALL = 64  # columns that are not worth leaving out a prompt


def as_questions(examples: Sequence[Example]) -> list[Example]:
    """Return examples whose prompts are messages: a text becomes what a user says."""
    return [
        example
        if isinstance(example.prompt, Chat)
        else Example(
            Chat([{"role": "user", "content": example.prompt}]),
            example.references,
            example.metadata,
        )
        for example in examples
    ]


def columns_for(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    prompt_length: int | None,
    *,
    default: int,
    own: bool,
    truncate: bool,
    source: str,
) -> tuple[Sequence[Example], int]:
    """Return the examples of a task with columns of its own choice, and how many columns it has.

    Args:
        examples: with the prompts.
        tokenizer: encodes them.
        prompt_length: what was asked for, or None.
        default: what the task has for its own data, and at least.
        own: whether data or tokenizer are the user's, so that prompts may be of any length.
        truncate: prompts that do not fit will be shortened.
        source: names the data.
    """
    if prompt_length is not None or truncate or not own:
        return examples, default if prompt_length is None else prompt_length
    return fit_prompts(examples, tokenizer, source=source, least=default)


def fit_prompts(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    source: str,
    least: int = 1,
    most: int | None = None,
    truncate: bool = False,
) -> tuple[Sequence[Example], int]:
    """Return the examples whose prompts fit, and the columns that these need.

    All fit, unless the longest prompt is more than twice as long as 95% of them: then the longer
    ones are left out, or shortened where that is asked for, and a message says so.

    Args:
        examples: with the prompts.
        tokenizer: encodes them.
        source: names the data.
        least: columns at least.
        most: columns at most; None for no limit.
        truncate: prompts that do not fit will be shortened, so none is left out.
    """
    lengths = np.array([len(_ids(e, i, tokenizer, source)) for i, e in enumerate(examples)])
    longest, usual = int(lengths.max()), int(np.quantile(lengths, _MOST, method="higher"))
    columns = usual if longest > max(_FAR * usual, _SMALL) else longest
    if most is not None and columns > most:
        columns = most
    columns = max(columns, least)
    longer = int((lengths > columns).sum())
    said = f"{source}: prompt_length={columns}, found from {len(lengths)} prompts"
    if columns < usual or not longer:  # `most` is too few for the usual ones, which is an error
        logger.info("%s of up to %d tokens", said, longest)
    elif truncate:
        logger.warning("%s; %d longer ones, up to %d tokens, are shortened", said, longer, longest)
    else:
        logger.warning(
            "%s; %d longer ones, up to %d tokens, are left out. To keep them: prompt_length=%d, or "
            "truncate_prompts=True",
            said,
            longer,
            longest,
            longest,
        )
        examples = [e for e, n in zip(examples, lengths.tolist(), strict=True) if n <= columns]
    return examples, columns


def _ids(example: Example, number: int, tokenizer: Tokenizer, source: str) -> Any:
    try:
        return prompt_ids(example.prompt, tokenizer)
    except ValueError as error:
        if not isinstance(example.prompt, Chat):
            raise
        raise DatasetError(f"{source}, prompt {number}: {error}") from error
