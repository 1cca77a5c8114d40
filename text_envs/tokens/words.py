"""How `WordTokenizer` splits text into words and joins them again, for Python and for files.

The same rules are applied here with `re` and written into `tokenizer.json`, where the tokenizers
library applies them; a test compares both on random text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "UNK",
    "frame",
    "has_word_rules",
    "join",
    "pieces",
    "split",
    "to_json",
]

EOS, PAD, BOS, UNK = "<eos>", "<pad>", "<bos>", "<unk>"

# Only look-around and classes that both regular expression engines know.
_CLITIC = r"(?:s|re|ve|ll|d|m)(?!\w)"
_OPENS = r"(?<![^\s(\[{/\u201c-])"  # at the start, or after white space or an opening character
_REWRITES = (
    ("\u2026", "..."),
    ("[\u2013\u2014]", " -- "),
    (r"(?<=\s)-(?=\s)", "--"),
    ("[\u2019`]", "'"),
    (_OPENS + r'"(?=\S)', "\u201c"),
    ('"', "\u201d"),
    (_OPENS + rf"'(?=\w)(?!'{_CLITIC})", "\u2018"),
)
_TOKEN = "|".join(
    (
        UNK,
        r"n't(?!\w)",
        rf"'{_CLITIC}",
        r"[^\W_]+?(?=n't(?!\w))",
        r"\d+(?:[.,]\d+)+(?!\w)",
        rf"[^\W_]+(?:'(?!{_CLITIC})[^\W_]+)*",
        r"\.\.\.",
        "--",
        r"[^\w\s]|_",
    )
)
_GLUED_LEFT = frozenset(".,:;!?%)]}-/'\u201d") | {"...", "n't"}
_GLUED_LEFT |= {"'" + clitic for clitic in ("s", "re", "ve", "ll", "d", "m")}
_GLUED_RIGHT = frozenset("([{-/$#\u201c\u2018")
_SHOWN = {"\u201c": '"', "\u201d": '"', "\u2018": "'"}
_GLUE = "\0"  # stands in a piece for "no space after this"; join removes it with the space


def pieces(words: Iterable[str]) -> list[str]:
    """Return each word with the space before it, or the mark of none after it, as text has it."""
    return [
        ("" if word in _GLUED_LEFT else " ")
        + _SHOWN.get(word, word)
        + (_GLUE if word in _GLUED_RIGHT else "")
        for word in words
    ]


def join(chosen: Iterable[str]) -> str:
    """Return the text that pieces make; once per episode, so it is kept to string methods."""
    text = "".join(chosen)
    if _GLUE in text:
        text = text.replace(_GLUE + " ", "").replace(_GLUE, "")
    return text.removeprefix(" ")


def split(text: str) -> list[str]:
    """Return the words, clitics and punctuation marks of `text`, lower-cased, without accents."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    bare = bare.lower()
    for pattern, content in _REWRITES:
        bare = re.sub(pattern, content, bare)
    return re.findall(_TOKEN, bare)


def to_json(ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the content of a `tokenizer.json` for `ids`, the special tokens among them."""
    return {
        **frame(ids),
        **_rules(),
        "decoder": _decoder(),
        "model": {"type": "WordLevel", "vocab": dict(ids), "unk_token": UNK},
    }


def frame(ids: Mapping[str, int]) -> dict[str, Any]:
    """Return what the files of words and of characters share: special tokens, the begin token."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    begin = {"id": BOS, "ids": [ids[BOS]], "tokens": [BOS]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[word], "content": word, "special": True, **flags}
            for word in (EOS, PAD, BOS, UNK)
        ],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": BOS, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
            "special_tokens": {BOS: begin},
        },
    }


def has_word_rules(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a `tokenizer.json` splits text by the rules of this module."""
    return all(content.get(key) == rule for key, rule in _rules().items())


def _rules() -> dict[str, Any]:
    """Return the part of tokenizer.json that says how text becomes words."""
    steps: list[dict[str, Any]] = [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    steps += [
        {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
        for pattern, content in _REWRITES
    ]
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
        for pattern, behavior in ((_TOKEN, "Isolated"), (r"\s+", "Removed"))
    ]
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
    }


def _decoder() -> dict[str, Any]:
    """Return the decoder of tokenizer.json: a space before each word, then the glue."""
    right = "".join(map(re.escape, sorted(_GLUED_RIGHT)))
    marks = "".join(re.escape(word) for word in sorted(_GLUED_LEFT) if len(word) == 1)
    steps = (
        ("^", " "),
        (None, None),
        (rf"(?<= [{right}]) ", ""),
        (rf" (?!--(?: |$))(?=[{marks}]|n't(?!\w))", ""),
        ("[\u201c\u201d]", '"'),
        ("\u2018", "'"),
        ("^ ", ""),
    )
    decoders = [
        {"type": "Fuse"}
        if pattern is None
        else {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
        for pattern, content in steps
    ]
    return {"type": "Sequence", "decoders": decoders}
