"""What a tokenizer of transformers says about its own tokens: which are special, begin, end, bytes.

Everything is asked: of the declared names, of the tokenizer's tokens, of what it puts around a
text, and of the settings of the model in whose folder it lies. Nothing follows from how a token is
spelled, because alphabets and spellings differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = [
    "affixes",
    "byte_table",
    "declared_ends",
    "generation_ends",
    "known_ids",
    "special_ids",
    "unknown_id",
]

_TRIES = 64  # words asked for what stands around a text
_SETTINGS = ("generation_config.json", "config.json")


def known_ids(hf: Any) -> list[int]:
    """Return all ids with a token, those added behind the vocabulary too, in ascending order."""
    return sorted({*map(int, hf.get_vocab().values()), *map(int, hf.added_tokens_decoder)})


def special_ids(hf: Any) -> set[int]:
    """Return the ids that are no text: those with a declared name, and those marked as special."""
    marked = (i for i, token in hf.added_tokens_decoder.items() if token.special)
    return {*map(int, hf.all_special_ids), *map(int, marked)}


def unknown_id(hf: Any) -> int | None:
    """Return the id that unknown words get, also where only the model inside knows of it."""
    if hf.unk_token_id is not None:
        return int(hf.unk_token_id)
    model: Any = getattr(getattr(hf, "backend_tokenizer", None), "model", None)
    if (word := getattr(model, "unk_token", None)) is not None:
        found = model.token_to_id(word)
        return None if found is None else int(found)
    if type(model).__name__ == "Unigram":  # which tells nobody, except in its file
        number = json.loads(model.__getstate__()).get("unk_id")
        return None if number is None else int(number)
    return None


def affixes(hf: Any, words: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and behind a text.

    Args:
        hf: the tokenizer.
        words: ids of ordinary tokens; the text that is asked about is one of them, so that no
            tokenizer is asked about letters that it does not have.
    """
    for token, _ in zip(words, range(_TRIES), strict=False):
        text = hf.decode([token])
        bare = list(hf.encode(text, add_special_tokens=False)) if text.strip() else []
        if not bare:
            continue
        whole = hf(text)
        ids = [int(i) for i in whole["input_ids"]]
        starts = range(len(ids) - len(bare) + 1)
        if getattr(hf, "is_fast", False):  # the tokenizer itself knows what belongs to the text
            starts = range(
                next(i for i, of in enumerate(whole.sequence_ids(0)) if of == 0), len(ids)
            )
        for start in starts:
            if ids[start : start + len(bare)] == bare:
                return ids[:start], ids[start + len(bare) :]
    return [], []


def declared_ends(hf: Any) -> list[int]:
    """Return the ids that end a text according to the model's settings beside the tokenizer.

    Chat models have several. An id counts only where it was added to the vocabulary: settings of a
    model that was made with another tokenizer name ordinary words.
    """
    return next((ends for name in _SETTINGS if (ends := _ends_in(hf, name))), [])


def generation_ends(hf: Any) -> list[int]:
    """Return the ids at which `generate` of the model beside the tokenizer stops."""
    return _ends_in(hf, _SETTINGS[0])


def _ends_in(hf: Any, name: str) -> list[int]:
    folder = str(getattr(hf, "name_or_path", None) or "")
    if not folder:
        return []
    try:
        found = json.loads(Path(folder, name).read_bytes()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    added = {int(i) for i in hf.added_tokens_decoder}
    ends = found if isinstance(found, list) else [found]
    return [end for end in ends if type(end) is int and end in added]


def byte_table(hf: Any) -> dict[int, bytes] | None:
    """Return the bytes of each token that may hold a part of a character; None if none can.

    Two kinds exist: all tokens spelled in bytes (GPT-2), and one token for each byte beside
    ordinary ones, `<0xE4>` (Llama).
    """
    decoder = getattr(getattr(hf, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return None
    kinds = _kinds(json.loads(decoder.__getstate__()))
    if "ByteLevel" in kinds:
        letters = _letters()
        return {
            int(i): bytes(letters[c] for c in word)
            if set(word) <= letters.keys()
            else word.encode()
            for word, i in hf.get_vocab().items()
        }
    if "ByteFallback" in kinds:
        spelled = {f"<0x{byte:02X}>": bytes((byte,)) for byte in range(256)}
        return {int(i): spelled[word] for word, i in hf.get_vocab().items() if word in spelled}
    return None


def _kinds(decoder: dict[str, Any]) -> set[str]:
    inner = (_kinds(part) for part in decoder.get("decoders", ()))
    return {str(decoder.get("type")), *(kind for kinds in inner for kind in kinds)}


def _letters() -> dict[str, int]:
    """Return the letter that stands for each byte in a vocabulary of bytes, as GPT-2 chose them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    shifted = {chr(0x100 + number): byte for number, byte in enumerate(rest)}
    return {**{chr(byte): byte for byte in plain}, **shifted}
