"""The type of a model's weights, and what automatic mixed precision must not do to them.

Inside `torch.autocast`, torch keeps the lower-precision copy of each weight until the outermost
context is left. A whole `learn()` in one context would thus go on with the weights it began with:
copies that were made while sampling have no gradient, and no update reaches them.
`without_cast_cache` makes them anew for each pass. Small heads stay in float32
(`outside_autocast`): they cost nothing, and values and advantages need the digits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

__all__ = [
    "DTYPES",
    "as_dtype",
    "autocast_mark",
    "check_dtype",
    "exactly",
    "in_one_dtype",
    "is_casting",
    "outside_autocast",
    "without_cast_cache",
]

DTYPES = ("float32", "bfloat16", "auto")

P = ParamSpec("P")
R = TypeVar("R")


def as_dtype(dtype: str | torch.dtype) -> torch.dtype | str:
    """Return a type of torch for its name; "auto" stays what it is.

    Raises:
        ValueError: it is none that weights can have.
    """
    if dtype == "auto":
        return "auto"
    found = dtype if isinstance(dtype, torch.dtype) else None
    if isinstance(dtype, str):
        found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        accepted = ", ".join(map(repr, DTYPES))
        raise ValueError(
            f"dtype must be one of {accepted}, or a floating torch.dtype, got {dtype!r}"
        )
    return found


def check_dtype(
    dtype: str | torch.dtype | None, device: torch.device | str = "cpu", *, trained: bool = False
) -> None:
    """Refuse a type that a device cannot compute in, or that cannot be trained in.

    Args:
        dtype: a name or a type; of None and "auto" nothing is known yet.
        device: where the weights are going to be.
        trained: whether gradients are wanted.

    Raises:
        ValueError: so it is, with what is accepted.
    """
    found = None if dtype is None else as_dtype(dtype)
    if not isinstance(found, torch.dtype):
        return
    if trained and found == torch.float16:
        raise ValueError(
            "dtype float16 has too small a range for gradients without loss scaling, which is not "
            "done here; accepted: 'bfloat16', or 'float32', within torch.autocast if you like"
        )
    where = torch.device(device)
    try:
        able = where.type != "cuda" or found != torch.bfloat16
        able = able or torch.cuda.is_bf16_supported(including_emulation=False)
        one = torch.ones(2, 2, dtype=found, device=where)
        able = able and bool(torch.isfinite(one @ one).all())
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"device {where} cannot compute in {found}: {error}") from error
    if not able:
        raise ValueError(f"device {where} does not compute in {found}; accepted: dtype='float32'")


def is_casting(kind: str) -> bool:
    """Return whether automatic mixed precision is on for a type of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def exactly(kind: str) -> AbstractContextManager[Any]:
    """Return a context in which a type of device computes in the precision of its tensors."""
    return torch.autocast(kind, enabled=False) if is_casting(kind) else nullcontext()


def autocast_mark(device: torch.device) -> int:
    """Return a number that tells in which precision a device computes now."""
    if not is_casting(device.type):
        return 0
    return 1 + hash(str(torch.get_autocast_dtype(device.type))) % 997


def without_cast_cache(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method of an `ActionLM` cast weights anew inside of autocast."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        kind: str = cast(Any, args[0])._bias.device.type
        if not is_casting(kind):
            return method(*args, **kwargs)
        dtype = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, dtype=dtype, cache_enabled=False):
            return method(*args, **kwargs)

    return wrapped


def outside_autocast(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method compute from a tensor, its first argument, in the precision that it has."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with exactly(cast(Tensor, args[1]).device.type):
            return method(*args, **kwargs)

    return wrapped


def in_one_dtype(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the parts of a linear layer in the weight's type, or in that of autocast."""
    kind = hidden.device.type
    dtype: Any = weight.dtype
    if is_casting(kind) and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
