"""Tokens as they are drawn: what each one adds to the text, and who wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from text_envs.episodes.types import Role
from text_envs.tokens.spelling import Speller

__all__ = ["END", "SPECIAL", "Cell", "cells_of_row", "split_text"]

END = "\u00b6"  # a pilcrow: the end of a text or a turn
SPECIAL = "\u25a0"  # a square: any other token without text
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


def cells_of_row(
    speller: Speller, tokens: Any, roles: Any, *, dialogue: bool = False
) -> list[Cell]:
    """Return what is to be drawn of one row; padding and a prompt's special tokens are not.

    Args:
        speller: of the tokenizer that made them.
        tokens: `(L,)` ids.
        roles: `(L,)` who wrote each column.
        dialogue: start a new line wherever the speaker changes.
    """
    columns = [c for c, role in enumerate(roles) if role != int(Role.PAD)]
    ids = [int(tokens[c]) for c in columns]
    cells: list[Cell] = []
    for column, token, piece in zip(columns, ids, speller.pieces(ids), strict=True):
        role = Role(int(roles[column]))
        if piece:
            lead, text, tail = split_text(piece)
        elif role == Role.PROMPT:
            continue
        else:
            mark = END if token == speller.tokenizer.eos_id else SPECIAL
            lead, text, tail = " ", mark, ""
        if dialogue and cells and _SPEAKERS[cells[-1].role] != _SPEAKERS[role]:
            lead = "\n"
        cells.append(Cell(column, role, lead if cells else "", text, tail))
    return cells
