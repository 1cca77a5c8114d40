"""Arguments that are refused before anything is made, each by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["require", "require_batch", "require_weight", "require_whole"]


def require(name: str, value: Any, fine: bool | Callable[[Any], bool], accepted: str) -> None:
    """Raise a ValueError that names the argument, its value and what is accepted.

    Args:
        name: of the argument.
        value: what it got.
        fine: whether that can be used; or a function that tells, and fails for a value of a type
            that has no order.
        accepted: words for what can be used.
    """
    try:
        usable = fine(value) if callable(fine) else fine
    except TypeError:
        usable = False
    if not usable:
        raise ValueError(f"{name} must be {accepted}, got {value!r}")


def require_whole(name: str, value: object, least: int = 1, *, none: bool = False) -> None:
    """Raise a ValueError unless `value` is an integer of at least `least`, or None if allowed."""
    whole = isinstance(value, int | np.integer) and value >= least
    accepted = f"{'None or ' if none else ''}an integer of at least {least}"
    require(name, value, bool(whole) or (none and value is None), accepted)


def require_batch(batch_size: object, n_episodes: int, *, none: bool = True) -> None:
    """Raise a ValueError unless `batch_size` is a number of sequences of a roll-out, or None."""
    require_whole("n_episodes", n_episodes)
    fits = isinstance(batch_size, int | np.integer) and 1 <= batch_size <= n_episodes
    accepted = f"{'None or ' if none else ''}1..n_episodes={n_episodes} sequences"
    require("batch_size", batch_size, bool(fits) or (none and batch_size is None), accepted)


def require_weight(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` can weigh a term of a loss or a reward."""
    require(name, value, lambda x: 0 <= x < float("inf"), "at least 0 and finite")
