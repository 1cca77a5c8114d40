"""Frames to a file that every browser and slide plays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from text_envs.render.glyphs import pillow

__all__ = ["write_gif"]

_COLOURS = 256  # of a GIF's palette


def write_gif(
    path: str | os.PathLike[str],
    frames: Iterable[NDArray[np.uint8]],
    fps: float = 10.0,
    *,
    hold: float = 2.0,
) -> None:
    """Write frames as an animated GIF; the file is replaced in one go or not at all.

    Args:
        path: of the file; its folder is made.
        frames: images `(H, W, 3)` uint8 of one shape, as `render()` returns them; two equal ones
            in a row become one that is shown longer.
        fps: frames a second; a GIF counts in hundredths of a second, and browsers show none faster
            than 50 a second.
        hold: seconds that the last frame stays longer, before it all starts again.

    Raises:
        ValueError: no frames, frames of different shapes, or `fps` outside (0, 50].
        ImportError: Pillow is missing.
    """
    if not 0 < fps <= 50:
        raise ValueError(f"fps must be in (0, 50], got {fps!r}")
    images = [np.asarray(frame) for frame in frames]
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][-1] != 3:
        raise ValueError(f"frames must be images of one shape (H, W, 3), got shapes {shapes}")
    Image = pillow("write_gif").Image
    packed = [_pack(image) for image in images]
    palette, places = _palette(packed)
    pictures = []
    for colours in packed:
        picture = Image.fromarray(places[colours])
        picture.putpalette(palette.tobytes())
        pictures.append(picture)
    durations = [round(1000 / fps)] * len(pictures)
    durations[-1] += round(1000 * hold)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".tmp")
    pictures[0].save(
        unfinished, format="GIF", save_all=True, append_images=pictures[1:], duration=durations,
        loop=0, optimize=False,
    )  # fmt: skip
    os.replace(unfinished, target)


def _pack(image: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return each colour as one number, `(H, W)`."""
    red, green, blue = np.moveaxis(image.astype(np.uint32), 2, 0)
    packed: NDArray[np.uint32] = red << 16 | green << 8 | blue
    return packed


def _palette(packed: Sequence[NDArray[np.uint32]]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the 256 most frequent colours `(256, 3)`, and the nearest of them to every colour.

    One palette serves all frames: with one each, colours would flicker. The frequent colours are
    exact, white first of all; only the edges of letters are rounded.
    """
    counts: Counter[int] = Counter()
    for colours in packed:
        values, times = np.unique(colours, return_counts=True)
        counts.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
    chosen = np.zeros(_COLOURS, dtype=np.int64)
    frequent = [value for value, _ in counts.most_common(_COLOURS)]
    chosen[: len(frequent)] = frequent
    palette, known = _unpack(chosen), np.array(list(counts))  # (256, 3), (K,)
    places = np.zeros(1 << 24, dtype=np.uint8)
    for some in np.array_split(known, len(known) // 4096 + 1):  # (S,)
        apart = ((_unpack(some)[:, None, :] - palette[None]) ** 2).sum(axis=2)  # (S, 256)
        places[some] = apart.argmin(axis=1)
    return palette.astype(np.uint8), places


def _unpack(packed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return red, green and blue of each number, `(K, 3)`."""
    colours: NDArray[np.int64] = packed[:, None] >> np.array([16, 8, 0]) & 255
    return colours
