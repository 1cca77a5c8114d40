"""Prompts whose words a tokenizer does not have: said once, and refused where they are most."""

from __future__ import annotations

import logging
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example
from text_envs.tokens.protocol import Tokenizer

__all__ = ["MOST_UNKNOWN", "check_words"]

MOST_UNKNOWN = 0.5
"""The share of unknown words from which on tokenizer and data do not belong together."""

logger = logging.getLogger(__name__)

_SHOWN = 5
_UNKNOWN = "<unk>"  # who writes it in a prompt means it


def check_words(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    source: str,
    max_unknown: float | None = MOST_UNKNOWN,
) -> None:
    """Warn of words in prompts that the tokenizer lacks, with their number, share and examples.

    An agent sees an unknown token in their place, or nothing where the tokenizer drops them.

    Args:
        examples: with the prompts.
        tokenizer: reads them.
        source: names the data.
        max_unknown: the share of all words, 0 to 1, above which the data is refused; None for
            tasks whose cards say that words are missing: they are logged, and never refused.

    Raises:
        ValueError: `max_unknown` is no share.
        DatasetError: more words are unknown than `max_unknown` allows.
    """
    number = isinstance(max_unknown, int | float) and not isinstance(max_unknown, bool)
    if max_unknown is not None and not (number and 0 <= max_unknown <= 1):
        raise ValueError(f"max_unknown must be a share from 0 to 1, got {max_unknown!r}")
    prompts = [example.prompt for example in examples]
    lost = _lost_characters(prompts, tokenizer)
    split: Any = getattr(tokenizer, "split", str.split)
    meant = {_UNKNOWN, getattr(getattr(tokenizer, "hf", None), "unk_token", None) or _UNKNOWN}
    unknown: Counter[str] = Counter()
    total = 0
    for prompt in prompts:
        for word in meant:
            prompt = prompt.replace(word, " ")
        words = split(prompt)
        total += len(words)
        if tokenizer.unk_id in tokenizer.encode(prompt) or not lost.isdisjoint(prompt):
            unknown.update(_unknown(words, tokenizer, lost))
    count = unknown.total()
    if not count:
        return
    share = count / total
    shown = ", ".join(repr(word) for word, _ in unknown.most_common(_SHOWN))
    message = (
        f"{source}: {tokenizer!r} lacks {count} of the {total} words of the prompts "
        f"({share:.1%}), such as {shown}; an agent cannot read them"
    )
    if max_unknown is None:
        logger.warning(message)
        return
    if share > max_unknown:
        raise DatasetError(
            f"{message}. More than max_unknown={max_unknown:g}: pass a tokenizer of the data's "
            "words (tokenizer=), or a higher max_unknown (1 accepts everything)"
        )
    warnings.warn(message, stacklevel=3)


def _unknown(words: Iterable[str], tokenizer: Tokenizer, lost: set[str]) -> list[str]:
    return [
        word
        for word in words
        if tokenizer.unk_id in tokenizer.encode(word) or not lost.isdisjoint(word)
    ]


def _lost_characters(prompts: Iterable[str], tokenizer: Tokenizer) -> set[str]:
    """Return the characters that a tokenizer without an unknown token passes over."""
    if tokenizer.unk_id is not None:
        return set()
    plain = [c for c in set().union(*prompts) if unicodedata.category(c)[0] not in "CZ"]
    return {c for c in plain if not tokenizer.decode(tokenizer.encode(c)).strip()}
