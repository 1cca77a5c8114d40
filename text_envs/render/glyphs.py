"""Letters as arrays: each text is drawn once by Pillow and pasted by numpy from then on."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.render.colours import Colour
from text_envs.render.visible import one_line

__all__ = ["SQUARES", "pillow", "stamp", "width_of"]

# Fonts for text lack these; games of words answer with them.
SQUARES: dict[str, Colour] = {
    "\N{LARGE RED SQUARE}": (221, 46, 68),
    "\N{LARGE ORANGE SQUARE}": (244, 144, 12),
    "\N{LARGE YELLOW SQUARE}": (253, 203, 88),
    "\N{LARGE GREEN SQUARE}": (120, 177, 89),
    "\N{LARGE BLUE SQUARE}": (85, 172, 238),
    "\N{LARGE PURPLE SQUARE}": (170, 142, 214),
    "\N{LARGE BROWN SQUARE}": (193, 105, 79),
    "\N{BLACK LARGE SQUARE}": (49, 55, 61),
    "\N{WHITE LARGE SQUARE}": (230, 231, 232),
}
_EDGE: Colour = (150, 150, 150)


def pillow(what: str) -> Any:
    """Return Pillow's modules `Image`, `ImageDraw` and `ImageFont` as attributes.

    Args:
        what: needs them, for the message.

    Raises:
        ImportError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(f"{what} needs Pillow: pip install 'text_envs[video]'") from error
    return SimpleNamespace(Image=Image, ImageDraw=ImageDraw, ImageFont=ImageFont)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    """Return DejaVu Sans from Matplotlib's files, or else Pillow's own letters, which are ASCII."""
    modules = pillow("render_mode='rgb_array'")
    spec = importlib.util.find_spec("matplotlib")  # found, not imported
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if file.is_file():
            return modules.ImageFont.truetype(str(file), size)
    return modules.ImageFont.load_default(size)


@lru_cache(maxsize=8192)
def _ink(text: str, size: int) -> tuple[int, NDArray[np.uint16]]:
    """Return how far a text moves on, and how much of each pixel is ink `(h, w, 1)` of 255.

    A letter may reach over the place that belongs to it: `w` is not always the first number.
    """
    text = one_line(text)  # Pillow measures single lines only
    modules, font = pillow("render_mode='rgb_array'"), _font(size)
    ascent, descent = font.getmetrics()
    moves, reaches = round(font.getlength(text)), font.getbbox(text)[2]
    image = modules.Image.new("L", (max(1, moves, reaches), ascent + descent))
    modules.ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return max(1, moves), np.asarray(image, dtype=np.uint16)[:, :, None]


def width_of(text: str, size: int) -> int:
    """Return how many pixels wide a text is."""
    return size if text in SQUARES else _ink(text, size)[0]


def stamp(image: NDArray[np.uint8], at: tuple[int, int], text: str, size: int, ink: Colour) -> None:
    """Draw one line of text over what is there; what lies outside of the image is cut.

    Args:
        image: `(H, W, 3)`, changed.
        at: x and y of the upper left corner, not negative.
        text: the text.
        size: of the letters, in pixels.
        ink: their colour.
    """
    x, y = at
    if text in SQUARES:
        image[y + 2 : y + size + 1, x : x + size - 1] = _EDGE
        image[y + 3 : y + size, x + 1 : x + size - 2] = SQUARES[text]
        return
    area = image[y:, x:]
    part = _ink(text, size)[1][: area.shape[0], : area.shape[1]]  # (h, w, 1)
    area = area[: part.shape[0], : part.shape[1]]
    colour = np.array(ink, dtype=np.uint16)
    area[...] = (area * (255 - part) + colour * part) // 255
