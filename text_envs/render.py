"""Pictures of an episode: text for a terminal, an image for a video."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.engine import TokenEngine
from text_envs.types import Role

__all__ = ["MODES", "ansi", "rgb_array"]

MODES = ["ansi", "human", "rgb_array"]

_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def ansi(engine: TokenEngine, row: int, *, colour: bool = True) -> str:
    """Return the text of a row: the prompt dimmed, the agent's words bold, replies plain.

    Args:
        engine: whose row.
        row: which row.
        colour: False for plain text with brackets around the prompt.
    """
    pieces = []
    for role, text in _spans(engine, row):
        if not colour:
            pieces.append(f"[{text}]" if role == Role.PROMPT else text)
        elif role == Role.PROMPT:
            pieces.append(f"{_DIM}{text}{_RESET}")
        elif role == Role.REPLY:
            pieces.append(text)
        else:
            pieces.append(f"{_BOLD}{text}{_RESET}")
    ending = "" if engine.running[row] else " <end>"
    return " ".join(pieces) + ending


def _spans(engine: TokenEngine, row: int) -> list[tuple[Role, str]]:
    """Return the row's text in pieces of one role each; empty pieces are left out."""
    tokens, roles = engine.tokens[row], engine.roles(np.array([row]))[0]
    boundaries = np.flatnonzero(np.diff(roles)) + 1
    pieces = [
        (Role(roles[span[0]]), engine.tokenizer.decode(tokens[span].tolist()))
        for span in np.split(np.arange(len(tokens)), boundaries)
    ]
    return [(role, text) for role, text in pieces if role != Role.PAD and text]


_WIDTH, _HEIGHT, _LINE = 480, 160, 16  # pixels
_PAPER, _GREY, _BLACK, _BLUE = (255, 255, 255), (150, 150, 150), (20, 20, 20), (30, 80, 200)


def rgb_array(engine: TokenEngine, row: int) -> NDArray[np.uint8]:
    """Return the text of a row as an image `(160, 480, 3)`: prompt grey, actions black.

    Replies of the environment are blue. Of a text that does not fit, the last lines are shown.

    Raises:
        ImportError: Pillow, which draws the letters, is missing.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError(
            "render_mode='rgb_array' needs the package Pillow: pip install 'text_envs[agents]'"
        ) from error
    colours = {Role.PROMPT: _GREY, Role.REPLY: _BLUE}
    lines: list[tuple[str, Any]] = []
    for role, text in _spans(engine, row):
        lines += [(line, colours.get(role, _BLACK)) for line in textwrap.wrap(text, 72)]
    image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, (line, colour) in enumerate(lines[-(_HEIGHT // _LINE) :]):
        draw.text((8, number * _LINE), line, fill=colour)
    return np.asarray(image).copy()
