"""`render_mode="rgb_array"`: the tokens of a row, coloured by one score.

All images have one shape, whatever the episode, because a video needs that. Of a text that does
not fit, the last lines are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.episodes.types import Role
from text_envs.render.cells import END, OPEN, PART, Cell
from text_envs.render.colours import INK, PROMPT, REPLY, Colour, mix, scale
from text_envs.render.glyphs import stamp, width_of
from text_envs.render.rows import cells_of, score_of, total_reward

__all__ = ["SHAPE", "rgb_array"]

SHAPE = (360, 640, 3)  # even numbers, as video codecs ask for

_PAPER: Colour = (255, 255, 255)
_LINE: Colour = (216, 216, 216)
_INKS = {Role.PROMPT: PROMPT, Role.REPLY: REPLY}
_SIZE, _SMALL = 17, 13  # of letters, pixels
_MARGIN, _TOP, _FOOT = 20, 18, 296  # left and right edge, first line, line above the legend
_STEP, _GAP, _HIGH = 30, 6, 24  # from line to line, between words, of a coloured box
_LINES = (_FOOT - _TOP) // _STEP
_BAR = 120  # width of the scale
_KEYS = {
    Role.PROMPT: "prompt",
    Role.PREFIX: "given",
    Role.ACTION: "written",
    Role.REPLY: "reply",
}
_SIGNS = {END: "end", PART: "part", OPEN: "unfinished"}


class _Placed(NamedTuple):
    """A token on a line, `x` pixels from the left edge."""

    x: int
    width: int
    cell: Cell


def rgb_array(engine: TokenEngine, row: int) -> NDArray[np.uint8]:
    """Return a row as an image `(360, 640, 3)`: each token on the colour of the chosen score.

    The prompt is grey, replies are blue, tokens given in advance are underlined. Below stand how
    far the episode is, what it has earned and, once over, why it ended; and the scale.

    Raises:
        ImportError: Pillow, which draws the letters, is missing.
    """
    image = np.full(SHAPE, 255, dtype=np.uint8)
    shown = "reward" if engine.record is None else engine.record.shown
    score = score_of(engine, row, shown)
    full = scale(score)
    cells = cells_of(engine, row)
    lines = _lay_out(cells)
    if len(lines) > _LINES:
        stamp(image, (_MARGIN, 0), "\u2026", _SMALL, PROMPT)
    for number, line in enumerate(lines[-_LINES:]):
        y = _TOP + number * _STEP
        for placed in line:  # all boxes first: a letter may reach over the next one
            _colour(image, placed, y, mix(float(score[placed.cell.column]) / full))
        for placed in line:
            _write(image, placed, y)
    _footer(image, engine, row, cells)
    _legend(image, shown, full)
    return image


def _lay_out(cells: Sequence[Cell]) -> list[list[_Placed]]:
    """Return the lines; a word of several tokens stays together where a line can hold it."""
    lines: list[list[_Placed]] = [[]]
    room, x = SHAPE[1] - 2 * _MARGIN, 0
    for word in _words(cells):
        widths = [width_of(cell.text, _SIZE) for cell in word]
        breaks = (word[0].lead).count("\n")
        if breaks or (x > 0 and x + _GAP + sum(widths) > room):
            lines += [[] for _ in range(max(1, min(breaks, 2)))]
            x = 0
        elif x > 0:
            x += _GAP
        for cell, width in zip(word, widths, strict=True):
            if x > 0 and x + width > room:
                lines.append([])
                x = 0
            lines[-1].append(_Placed(_MARGIN + x, min(width, room), cell))
            x += width
    return lines


def _words(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return runs of tokens without white space between them."""
    words: list[list[Cell]] = []
    for cell in cells:
        if not words or cell.lead or words[-1][-1].tail:
            words.append([])
        words[-1].append(cell)
    return words


def _colour(image: NDArray[np.uint8], placed: _Placed, y: int, colour: Colour | None) -> None:
    """Draw the box behind a token; inside a word it does not reach over the token before."""
    if colour is not None:
        left = placed.x - 2 * bool(placed.cell.lead or placed.x == _MARGIN)
        image[y : y + _HIGH, left : placed.x + placed.width + 2] = colour


def _write(image: NDArray[np.uint8], placed: _Placed, y: int) -> None:
    x, width, cell = placed
    stamp(image, (x, y + 2), cell.text, _SIZE, _INKS.get(cell.role, INK))
    if cell.role == Role.PREFIX:
        _dots(image, x, y + _HIGH - 2, width)


def _dots(image: NDArray[np.uint8], x: int, y: int, width: int) -> None:
    """Draw a dotted line."""
    for dot in range(x, x + width, 4):
        image[y : y + 2, dot : dot + 2] = INK


def _footer(image: NDArray[np.uint8], engine: TokenEngine, row: int, cells: Sequence[Cell]) -> None:
    """Draw the caption, and below it the key to the colours of letters."""
    image[_FOOT, _MARGIN:-_MARGIN] = _LINE
    written = int(engine.position[row]) - engine.prompt_length
    facts = [f"token {written} of {engine.task.max_tokens}"]
    if engine.record is not None:
        facts.append(f"reward {total_reward(engine, row):+.2f}")
        if engine.record.finish_reasons[row]:
            facts.append(f"ended: {engine.record.finish_reasons[row]}")
    stamp(image, (_MARGIN, _FOOT + 10), "   ".join(facts), _SMALL + 1, INK)
    x, roles = _MARGIN, {cell.role for cell in cells}
    for role, name in _KEYS.items():
        if role in roles:
            stamp(image, (x, _FOOT + 36), name, _SMALL, _INKS.get(role, INK))
            if role == Role.PREFIX:
                _dots(image, x, _FOOT + 52, width_of(name, _SMALL))
            x += width_of(name, _SMALL) + 18
    marks = {cell.mark for cell in cells}
    for mark, name in _SIGNS.items():
        if mark in marks:
            stamp(image, (x, _FOOT + 36), f"{mark} {name}", _SMALL, INK)
            x += width_of(f"{mark} {name}", _SMALL) + 18


def _legend(image: NDArray[np.uint8], name: str, full: float) -> None:
    """Draw the scale of the score in the lower right corner."""
    right = SHAPE[1] - _MARGIN
    left, y = right - _BAR, _FOOT + 13
    x = max(left - 12 - width_of(name, _SMALL + 1), 0)
    stamp(image, (x, _FOOT + 10), name, _SMALL + 1, INK)
    image[y : y + 14, left:right] = _gradient()
    for text, at in ((f"\u2212{full:g}", 0.0), ("0", 0.5), (f"+{full:g}", 1.0)):
        wide = width_of(text, _SMALL)
        x = min(round(left + at * _BAR - wide / 2), right - wide)
        stamp(image, (x, _FOOT + 36), text, _SMALL, INK)


def _gradient() -> NDArray[np.uint8]:
    """Return the colours from the lowest to the highest score, `(width, 3)`."""
    colours = [mix(strength) or _PAPER for strength in np.linspace(-1.0, 1.0, _BAR)]
    return np.array(colours, dtype=np.uint8)
