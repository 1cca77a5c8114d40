"""`render_mode="ansi"`: a row for a terminal."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import TextIO

from text_envs.core.engine import TokenEngine
from text_envs.episodes.types import Role
from text_envs.render.cells import END, PART, Cell
from text_envs.render.rows import cells_of, total_reward
from text_envs.render.visible import one_line

__all__ = ["ansi", "show"]

_RESET = "\x1b[0m"
_START = "<start>"  # of a text without a prompt, of which nothing has been written
_CODES = {
    Role.PROMPT: "\x1b[2m",  # dim
    Role.PREFIX: "\x1b[1;4m",  # bold, underlined
    Role.ACTION: "\x1b[1m",  # bold
}
_BRACKETS = {Role.PROMPT: "[]", Role.PREFIX: "{}", Role.REPLY: "<>"}


def ansi(engine: TokenEngine, row: int, *, colour: bool = True) -> str:
    """Return the text of a row; after its end, why it ended and what it earned.

    The prompt is dimmed, the agent's words are bold, tokens given in advance underlined, replies
    plain. In a dialogue every turn has a line of its own. A dotted circle stands for each token of
    a character that is not complete; codes that a terminal would obey are shown as signs.

    Args:
        engine: whose row.
        row: which row.
        colour: False for plain text: `[prompt]`, `{given}`, `<reply>`.
    """
    cells = [cell for cell in cells_of(engine, row) if cell.mark != END]
    text = "".join(
        _paint(role, list(group), colour) for role, group in groupby(cells, lambda c: c.role)
    )
    if engine.example_index[row] < 0:  # before the first reset
        return text
    if engine.running[row]:
        return text or _START
    facts = []
    if engine.record is not None and engine.record.finish_reasons[row]:
        facts = [
            one_line(engine.record.finish_reasons[row]),
            f"reward {total_reward(engine, row):+.2f}",
        ]
    return f"{text} <end>" + (f" ({', '.join(facts)})" if facts else "")


def _paint(role: Role, cells: list[Cell], colour: bool) -> str:
    """Return the words of one writer; the space before the first is not part of the paint."""
    # Here a token has no box of its own, so what is only a part of a character needs no sign.
    texts = (cell.text.removesuffix(PART * (cell.mark == PART)) for cell in cells)
    body = "".join(c.lead + text + c.tail for c, text in zip(cells, texts, strict=True))
    body = body[len(cells[0].lead) :]
    if not colour:
        marks = _BRACKETS.get(role)
        return cells[0].lead + (body if marks is None else f"{marks[0]}{body}{marks[1]}")
    code = _CODES.get(role)
    return cells[0].lead + (body if code is None else f"{code}{body}{_RESET}")


def show(text: str, file: TextIO | None = None) -> None:
    """Print a text, with a question mark for each character that the stream cannot encode.

    Args:
        text: the text.
        file: where to; default the standard output, and nowhere if there is none.
    """
    stream = sys.stdout if file is None else file
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
