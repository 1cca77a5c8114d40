"""Arguments that are refused before anything is made, each by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["check_device", "require", "require_batch", "require_weight", "require_whole"]


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
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least
    accepted = f"{'None or ' if none else ''}an integer of at least {least}"
    require(name, value, bool(whole) or (none and value is None), accepted)


def require_batch(batch_size: object, n_episodes: int, *, none: bool = True) -> None:
    """Raise a ValueError unless `batch_size` is a number of sequences of a roll-out, or None."""
    require_whole("n_episodes", n_episodes)
    whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    fits = whole and 1 <= batch_size <= n_episodes  # type: ignore[operator]
    accepted = f"{'None or ' if none else ''}1..n_episodes={n_episodes} sequences"
    require("batch_size", batch_size, bool(fits) or (none and batch_size is None), accepted)


def require_weight(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` can weigh a term of a loss or a reward."""
    require(name, value, lambda x: 0 <= x < float("inf"), "at least 0 and finite")


def check_device(device: Any) -> None:
    """Raise a ValueError if a device is none, or is not there."""
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    here += ["mps"] if torch.backends.mps.is_available() else []
    accepted = f"'auto' or one that is here: {', '.join(map(repr, here))}"
    try:
        found = torch.device("cpu" if device == "auto" else device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be {accepted}, got {device!r}") from None
    there = found.type in here
    if found.type == "cuda" and there and found.index is not None:
        there = found.index < torch.cuda.device_count()
    require("device", device, there or found.type not in ("cuda", "mps"), accepted)
