"""How `CharTokenizer` splits text, as a `tokenizer.json` for the tokenizers library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from text_envs.tokens.words import UNK, frame

__all__ = ["has_char_rules", "to_json"]


def to_json(ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the content of a `tokenizer.json` for `ids`, the special tokens among them."""
    content = {
        **frame(ids),
        **_rules(),
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": dict(ids), "unk_token": UNK},
    }
    return content


def has_char_rules(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a `tokenizer.json` splits text by the rules of this module."""
    return all(content.get(key) == rule for key, rule in _rules().items())


def _rules() -> dict[str, Any]:
    """Return the part of tokenizer.json that says how text becomes characters."""
    split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated"}
    return {"normalizer": None, "pre_tokenizer": {**split, "invert": False}}
