"""From what a user writes (an object, a name, a folder) to a tokenizer."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from text_envs.tokens.assets import ASSETS
from text_envs.tokens.builtin import CharTokenizer, WordTokenizer
from text_envs.tokens.chars import has_char_rules
from text_envs.tokens.hf import HFTokenizer
from text_envs.tokens.hub import find_name
from text_envs.tokens.padding import with_padding
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.vocabulary import model_folder
from text_envs.tokens.words import has_word_rules

__all__ = ["load_tokenizer"]


@functools.cache
def _bundled(name: str) -> WordTokenizer:
    return WordTokenizer.from_file(ASSETS / name)


def load_tokenizer(spec: object, *, add_padding: bool = False) -> Tokenizer:
    """Return a tokenizer for `spec`.

    Args:
        spec: a `Tokenizer`, a tokenizer object of `transformers`, `"reviews"` for the bundled one,
            a folder or file written by `WordTokenizer.save`, the folder of a saved agent whose
            model came with a tokenizer, or whatever
            `transformers.AutoTokenizer.from_pretrained` accepts (code from the Hub is never run).
        add_padding: give a tokenizer of transformers that has no padding token of its own
            (GPT-2's) one behind all others, in a copy, instead of refusing it; a model needs a
            row for it only where it is shown padding, which `text_envs.lm` never does.

    Raises:
        TypeError: `spec` is none of these kinds.
        ImportError: transformers is needed and not installed.
        ValueError: the tokenizer lacks an end or a padding token, or the name is not found.
    """
    if isinstance(spec, Tokenizer):
        return spec
    if hasattr(spec, "eos_token_id") and hasattr(spec, "get_vocab"):
        return _adapt(spec, add_padding)
    if not isinstance(spec, str | os.PathLike):
        raise TypeError(
            "tokenizer must be a Tokenizer, a tokenizer of transformers, 'reviews', a path or a "
            f"Hub name; got {spec!r}"
        )
    if spec == "reviews":
        return _bundled("reviews")
    spec = model_folder(spec)
    file = Path(spec) / "tokenizer.json" if Path(spec).is_dir() else Path(spec)
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if has_word_rules(content):
        return WordTokenizer.from_file(file)
    if content and has_char_rules(content):
        return CharTokenizer.from_file(file)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(
            f"loading the tokenizer {str(spec)!r} needs transformers: "
            "pip install 'text_envs[agents]'"
        ) from error
    try:
        name = os.fspath(spec)
        place = name if Path(name).exists() else find_name(name, "tokenizer_config.json")
        found = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:  # which of the two depends on how the name fails
        raise ValueError(
            f"no tokenizer {str(spec)!r}: it is neither 'reviews', nor a folder with a tokenizer, "
            f"nor found under this name on the Hub ({error})"
        ) from error
    return _adapt(found, add_padding)


def _adapt(hf: Any, add_padding: bool) -> HFTokenizer:
    return HFTokenizer(with_padding(hf) if add_padding else hf)
