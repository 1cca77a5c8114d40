"""The one gate for what is paid: which names a ledger may have, and which values are rewards.

A reward is a sum of named terms, `info["reward_terms"]`. Names come from reward models (their
`components`), from weights, from servers; wherever they come in, `check_names` is asked. Values
come from reward models, replies and shaping; all pass `as_numbers`.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BESIDE_REPLIES",
    "REPLY",
    "RESERVED",
    "SHAPING",
    "NotFiniteError",
    "as_numbers",
    "check_names",
]

REPLY = "task"  # what a turn's reply pays, and the one term of a reward model without components
SHAPING = "shaping"
BESIDE_REPLIES = "reward_model"  # a reward model without components in a task whose replies pay
RESERVED = (SHAPING, BESIDE_REPLIES)

# As float32, which is what agents get: a larger number would become infinite there.
_LARGEST = float(np.finfo(np.float32).max)


def check_names(names: Iterable[Any], *, reserved: bool = True) -> tuple[str, ...]:
    """Return names of terms, which must tell them apart in every face.

    Args:
        names: one for each component of a reward model, or each of its details.
        reserved: refuse the names of what an environment pays itself; details may have them.

    Raises:
        ValueError: a name that is no string, is empty, stands twice, begins with "_" (with which
            Gymnasium marks the rows that a value is for), or is taken.
    """
    listed = tuple(names)
    try:
        return _checked(listed, reserved)
    except TypeError:  # a name that cannot be hashed is no string either
        raise ValueError(f"names of reward terms must be strings, got {listed!r}") from None


@functools.lru_cache(maxsize=1024)
def _checked(names: tuple[Any, ...], reserved: bool) -> tuple[str, ...]:
    taken = RESERVED if reserved else ()
    for name in names:
        fault = None
        if not isinstance(name, str):
            fault = "is no string"
        elif not name:
            fault = "is empty"
        elif name.startswith("_"):
            fault = "begins with '_', which marks the rows that a value is for"
        elif name in taken:
            fault = "is what an environment calls a term of its own"
        elif names.count(name) > 1:
            fault = "stands for two terms"
        if fault:
            raise ValueError(f"reward term {name!r} {fault}; got the names {list(names)}")
    return names


def as_numbers(values: Any) -> NDArray[np.float64]:
    """Return what somebody paid as float64: arrays, tensors and lists of real numbers.

    Raises:
        ValueError: anything else, among it masked, complex, dates, text and missing values; or a
            number that is not finite as float32. The message says what is wrong with which.
    """
    if hasattr(values, "detach"):  # a tensor, perhaps on another device or of a type numpy lacks
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
        values = values.numpy()
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.getmaskarray(values).any():
            raise ValueError(f"{int(np.ma.getmaskarray(values).sum())} values are masked")
        values = values.data
    try:
        array = np.asarray(values)
    except Exception as error:  # ragged lists, and whatever a foreign __array__ raises
        raise ValueError(f"{type(values).__name__}, not numbers ({error})") from None
    if array.dtype.kind == "O":
        array = _from_objects(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{type(values).__name__}, not numbers (of type {array.dtype})")
    floats = array.astype(np.float64)
    wrong = ~(np.abs(floats) <= _LARGEST)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise NotFiniteError(floats[first], first)
    return floats


class NotFiniteError(ValueError):
    """A number that is not finite, or would not be as float32.

    Attributes:
        value: the number.
        index: its place.
    """

    def __init__(self, value: float, index: tuple[int, ...]) -> None:
        super().__init__(f"{value} at {list(index)}; rewards must be finite, also as float32")
        self.value, self.index = value, index


def _from_objects(array: NDArray[Any]) -> NDArray[np.float64]:
    floats = np.empty(array.shape)
    for index, value in np.ndenumerate(array):
        if not isinstance(value, numbers.Real) and not isinstance(value, np.number | np.bool_):
            kind = type(value).__name__
            raise ValueError(f"{kind}, not numbers (a {kind} at {list(index)})")
        try:
            floats[index] = float(value)
        except OverflowError:
            raise NotFiniteError(float("inf"), index) from None
    return floats
