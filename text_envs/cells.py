"""Tokens as they are drawn: what each one adds to the text, and who wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from text_envs.tokenizers import Tokenizer
from text_envs.types import Role

__all__ = ["END", "SPECIAL", "Cell", "Speller", "split_text"]

END = "\u00b6"  # a pilcrow: the end of a text or a turn
SPECIAL = "\u25a0"  # a square: any other token without text
_MOST_PAIRS = 1 << 16
_SPEAKERS = {Role.PROMPT: 0, Role.PREFIX: 1, Role.ACTION: 1, Role.REPLY: 2}


@dataclass(frozen=True)
class Cell:
    """One token.

    Attributes:
        column: of the observation.
        role: who wrote it.
        lead: white space before its text.
        text: what is shown; never empty.
        tail: white space behind it.
    """

    column: int
    role: Role
    lead: str
    text: str
    tail: str = ""


def split_text(piece: str) -> tuple[str, str, str]:
    """Return the white space before, the visible text, the white space behind.

    White space alone is made visible, because a token that can be scored must be seen.

    >>> split_text(" film"), split_text("a "), split_text(" ")
    ((' ', 'film', ''), ('', 'a', ' '), ('', '\u2423', ''))
    """
    body = piece.strip()
    if not body:
        return "", "\u21b5" if "\n" in piece else "\u2423", piece if "\n" in piece else ""
    start = piece.index(body)
    return piece[:start], body, piece[start + len(body) :]


class Speller:
    """Spells tokens one by one; remembers what it has decoded.

    What a token adds is found with the token before it, because most tokenizers drop a space at
    the start of what they decode. Two tokens that share the bytes of one character show what the
    tokenizer makes of an incomplete one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Spell for `tokenizer`."""
        self.tokenizer = tokenizer
        self._pieces: dict[tuple[int, int], str] = {}

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return the text that each token adds, white space included; empty for special ones."""
        pairs = zip((-1, *tokens), tokens, strict=False)
        known = self._pieces
        return [known.get(pair) or self._decode(pair) for pair in pairs]

    def _decode(self, pair: tuple[int, int]) -> str:
        before, token = pair
        alone = self.tokenizer.decode([token])
        first = self.tokenizer.decode([before]) if before >= 0 else ""
        both = self.tokenizer.decode(pair) if first else alone
        piece = both[len(first) :] if first and both.startswith(first) else alone
        if len(self._pieces) < _MOST_PAIRS:
            self._pieces[pair] = piece
        return piece

    def cells(self, tokens: Any, roles: Any, *, dialogue: bool = False) -> list[Cell]:
        """Return what is to be drawn of one row; padding and a prompt's special tokens are not.

        Args:
            tokens: `(L,)` ids.
            roles: `(L,)` who wrote each column.
            dialogue: start a new line wherever the speaker changes.
        """
        columns = [c for c, role in enumerate(roles) if role != int(Role.PAD)]
        ids = [int(tokens[c]) for c in columns]
        cells: list[Cell] = []
        for column, token, piece in zip(columns, ids, self.pieces(ids), strict=True):
            role = Role(int(roles[column]))
            if piece:
                lead, text, tail = split_text(piece)
            elif role == Role.PROMPT:
                continue
            else:
                mark = END if token == self.tokenizer.eos_id else SPECIAL
                lead, text, tail = " ", mark, ""
            if dialogue and cells and _SPEAKERS[cells[-1].role] != _SPEAKERS[role]:
                lead = "\n"
            cells.append(Cell(column, role, lead if cells else "", text, tail))
        return cells

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens as the tokenizer decodes them."""
        return self.tokenizer.decode([int(token) for token in tokens])
