"""Tokens as they are drawn: what each one adds to the text, and who wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from text_envs.episodes.types import Role
from text_envs.render.visible import visible
from text_envs.tokens.protocol import end_ids
from text_envs.tokens.spelling import OPEN, PART, Piece, Speller

__all__ = ["END", "OPEN", "PART", "SPECIAL", "Cell", "cells_of_row", "split_text"]

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
        mark: the sign at the end of `text` that is not of the episode's text: `END`, `SPECIAL`,
            `PART` of a character that a later token completes, `OPEN` where none does; or nothing.
    """

    column: int
    role: Role
    lead: str
    text: str
    tail: str = ""
    mark: str = ""


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
    for column, token, piece in zip(columns, ids, speller.spell(ids), strict=True):
        role = Role(int(roles[column]))
        if not any(piece):
            if role == Role.PROMPT:
                continue
            mark = END if token in end_ids(speller.tokenizer) else SPECIAL
            lead, text, tail = " ", mark, ""
        else:
            mark, (lead, text, tail) = piece.mark, _shown(piece)
        if dialogue and cells and _SPEAKERS[cells[-1].role] != _SPEAKERS[role]:
            lead = "\n"
        cells.append(Cell(column, role, lead if cells else "", text, tail, mark))
    return cells


def _shown(piece: Piece) -> tuple[str, str, str]:
    """Return the white space before a piece, what is visible of it, the white space behind."""
    text = visible(piece.text)
    if not piece.mark:
        return split_text(text)
    body = text.lstrip()
    return text[: len(text) - len(body)], body + piece.mark, ""
