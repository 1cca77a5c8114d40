"""What Wordle is made of: word lists, tokens of letters and marks, and the rule of the marks."""

from __future__ import annotations

import codecs
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import DatasetError, suggest
from text_envs.tasks.shared.data import load_examples, read_lines
from text_envs.tasks.shared.files import is_text_name
from text_envs.tokens.assets import ASSETS
from text_envs.tokens.builtin import CharTokenizer

__all__ = [
    "LENGTH",
    "LISTS",
    "SOLVED",
    "WordleTokenizer",
    "as_letters",
    "feedback",
    "load_words",
    "pattern_codes",
    "pattern_table",
]

LENGTH = 5
LISTS = ("small", "full")
SOLVED = 3**LENGTH - 1  # the code of five green marks

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SILENT = "\0"  # stands in the table for ids without a character
_FOLDER = ASSETS / "wordle"


class WordleTokenizer(CharTokenizer):
    """Letters are ids 0..25; the marks of the replies have ids above everything an agent writes.

    Attributes:
        grey: the letter does not occur (any more); `grey + 1` is yellow, the letter stands
            elsewhere; `grey + 2` is green, it stands here.
        refused: answers a guess that was no guess.

    >>> tokenizer = WordleTokenizer()
    >>> tokenizer.encode("Eerie"), tokenizer.decode([tokenizer.grey, tokenizer.grey + 2])
    ([4, 4, 17, 8, 4], '⬜🟩')
    """

    def __init__(self) -> None:
        super().__init__(_ALPHABET)
        marks = ("⬜", "🟨", "🟩", "✗")
        self.grey = self.vocab_size
        self.refused = self.grey + 3
        self.vocab_size += len(marks)
        self._ids.update(zip(marks, range(self.grey, self.vocab_size), strict=True))
        silent = _SILENT * (self.grey - len(self.words))
        self._table = _ALPHABET + silent + "".join(marks)

    def encode(self, text: str) -> list[int]:
        """Return one id per letter or mark; capital letters count as small ones."""
        return super().encode(text.lower())

    def decode(self, ids: Iterable[int]) -> str:
        """Return letters and marks; begin, end and padding are skipped."""
        # Every id is below 256 and stands for one character, so a byte codec does the look-ups:
        # environments decode each finished game, and a join of wide characters takes far longer.
        text, _ = codecs.charmap_decode(bytes(list(ids)), "strict", self._table)
        return text.replace(_SILENT, "")

    def __repr__(self) -> str:
        return "WordleTokenizer()"


def as_letters(words: Sequence[str]) -> NDArray[np.int8]:
    """Return the letters of lower-case words as numbers 0..25, `(W, 5)`."""
    flat = np.frombuffer("".join(words).encode("ascii"), dtype=np.int8)
    return (flat - np.int8(ord("a"))).reshape(-1, LENGTH)


def feedback(guesses: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int8]:
    """Return the marks of guesses against targets: 0 grey, 1 yellow, 2 green.

    A letter of the target answers for one letter of the guess only: green ones first, then the
    rest from left to right. So `eerie` against `level` is yellow, green, grey, grey, grey.

    Args:
        guesses: `(..., 5)` letters as numbers.
        targets: `(..., 5)`; the leading axes broadcast.

    Returns:
        `(..., 5)`.
    """
    axes = max(guesses.ndim, targets.ndim)
    # Letters first, so that every operation runs along the long axes.
    guess, target = (
        np.ascontiguousarray(np.moveaxis(x.reshape((1,) * (axes - x.ndim) + x.shape), -1, 0))
        for x in (guesses, targets)
    )
    green = guess == target  # (5, ...)
    # The two numbers never meet a letter or each other.
    asking = np.where(green, -2, guess).astype(np.int8)
    free = np.where(green, -1, target).astype(np.int8)
    matches = (asking[:, None] == free[None]).view(np.int8)  # (5, 5, ...)
    offered = matches.sum(axis=1, dtype=np.int8)
    same = (asking[:, None] == asking[None]).view(np.int8)
    for position in range(1, LENGTH):  # what letters further left have taken
        offered[position] -= same[position, :position].sum(axis=0, dtype=np.int8)
    marks: NDArray[np.int8] = 2 * green.view(np.int8) + (offered > 0)
    return np.moveaxis(marks, 0, -1)


def pattern_codes(marks: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return marks `(..., 5)` as one number 0..242 each, `(...)`."""
    # A matrix product of int8 has no fast routine; five additions along the rows are quicker.
    codes: NDArray[np.uint8] = sum(  # type: ignore[assignment]
        marks[..., place].view(np.uint8) * np.uint8(3**place) for place in range(LENGTH)
    )
    return codes


@functools.lru_cache(maxsize=4)
def pattern_table(words: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return the pattern code of every word guessed against every word, `(W, W)`."""
    letters = as_letters(words)
    table = np.empty((len(words), len(words)), dtype=np.uint8)
    for start in range(0, len(words), 32):  # a few rows at a time stay in the processor's cache
        block = letters[start : start + 32, None]
        table[start : start + 32] = pattern_codes(feedback(block, letters[None]))
    table.flags.writeable = False
    return table


def load_words(words: Any) -> tuple[str, ...]:
    """Return a word list: `"small"`, `"full"`, a file with one word a line, a Hub name, a list.

    Raises:
        DatasetError: a word that is not five letters a to z, or stands there twice; the message
            names the line.
        ValueError: neither the name of a list nor a file.
    """
    if isinstance(words, str) and words in LISTS:
        return _bundled(words)
    if isinstance(words, str) and "/" not in words and "." not in words:
        if not Path(words).exists():
            raise ValueError(f"unknown words {words!r}.{suggest(words, LISTS)} Or a file of words.")
    if isinstance(words, str | Path) and is_text_name(Path(words)):
        lines = [line.strip().lower() for line in read_lines(Path(words))]
        return _checked(lines, f"{words}, line")
    examples = load_examples(words, fields=("word", "text", "prompt"))
    source = words if isinstance(words, str | Path) else type(words).__name__
    return _checked([example.prompt.strip().lower() for example in examples], f"{source}, item")


@functools.cache
def _bundled(name: str) -> tuple[str, ...]:
    return _checked(read_lines(_FOLDER / f"{name}.txt"), name)


def _checked(lines: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the words of `lines` without empty ones; numbers in messages count from 1."""
    first: dict[str, int] = {}
    for number, word in enumerate(lines, start=1):
        if not word:
            continue
        if len(word) != LENGTH or not set(word) <= set(_ALPHABET):
            raise DatasetError(
                f"{where} {number}: expected a word of {LENGTH} letters a to z, got {word!r}"
            )
        if word in first:
            raise DatasetError(f"{where} {number}: {word!r} stands at {first[word]} already")
        first[word] = number
    if not first:
        raise DatasetError(f"{where.rsplit(',', 1)[0]}: no words")
    return tuple(first)
