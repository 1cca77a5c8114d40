"""Colours of scores, the same on pages and in images: white is 0, green above, orange below.

The two ends are the bluish green and the vermilion of the palette of Okabe and Ito (2008), which
people with any kind of colour blindness tell apart. They are mixed with white, so that dark text
stays readable on all of them (a contrast of at least 4.5, as WCAG 2.2 asks for).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

__all__ = ["FULL", "INK", "NEGATIVE", "POSITIVE", "PROMPT", "REPLY", "Colour", "mix", "scale"]

Colour = tuple[int, int, int]

POSITIVE: Colour = (0, 158, 115)
NEGATIVE: Colour = (213, 94, 0)
INK: Colour = (26, 26, 26)  # text of the agent
PROMPT: Colour = (104, 104, 104)
REPLY: Colour = (0, 82, 155)  # text of the environment
FULL = 0.75  # how much of a colour is mixed with white at the end of the scale

_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0)


def scale(values: Iterable[float]) -> float:
    """Return the absolute value from which on a colour is full: a number easy to read.

    It is the 95th percentile of the absolute values, rounded up to one of few steps: outliers do
    not make everything else pale, and a growing text seldom changes the scale.

    Args:
        values: scores; those that are 0 or not finite have no colour and no say.

    >>> scale([0.0, 0.0, 0.9]), scale([]), scale([0.02, -0.012])
    (1.0, 1.0, 0.02)
    """
    sizes = np.abs(np.fromiter(values, dtype=np.float64))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes):
        return 1.0
    size = float(np.quantile(sizes, 0.95))
    power = 10.0 ** math.floor(math.log10(size))
    # Rounded before the comparison: 0.3 / 0.1 is a little less or more than 3.
    step = next(step for step in _STEPS if round(size / power, 9) <= step)
    return float(f"{step * power:.12g}")


def mix(strength: float) -> Colour | None:
    """Return the colour of a score divided by its scale; None for a score without a number.

    >>> mix(0.0), mix(1.0), mix(-2.0), mix(float("nan"))
    ((255, 255, 255), (64, 182, 150), (224, 134, 64), None)
    """
    if not math.isfinite(strength):
        return None
    end = POSITIVE if strength > 0 else NEGATIVE
    part = min(abs(strength), 1.0) * FULL
    red, green, blue = (round(255 + (channel - 255) * part) for channel in end)
    return red, green, blue
