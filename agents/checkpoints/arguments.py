"""Constructor arguments and spaces as plain JSON values, and back."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from agents.checkpoints.errors import CheckpointError, whole

# Above it lies no number that anybody gives, and memory for so many would be asked for.
_MOST = 2**53
_MOST_COLUMNS = 2**22

__all__ = ["decode_all", "describe_space", "encode", "make_space"]


def encode(value: Any) -> Any:
    """Return a JSON-plain form of an argument; `{"omitted": what}` where there is none."""
    if isinstance(value, FloatSchedule):
        return encode(value.value_schedule)
    if isinstance(value, ConstantSchedule):
        return value.val
    if isinstance(value, LinearSchedule):
        return {"linear_schedule": [value.start, value.end, value.end_fraction]}
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer):
        known = getattr(torch.optim, value.__name__, None) is value
        return {"optimizer": value.__name__} if known else {"omitted": value.__name__}
    if isinstance(value, dict):
        return {"mapping": {str(k): encode(v) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"omitted": f"an object of {type(value).__name__}"}


def decode_all(values: Any, overrides: dict[str, Any], remedy: str = "%s=...") -> dict[str, Any]:
    """Return the arguments that `encode` made plain, apart from those that are overridden.

    Args:
        values: what `encode` returned, by the arguments' names.
        overrides: arguments that are given anew.
        remedy: how to give an argument to `load`, with a place for its name.

    Raises:
        CheckpointError: an argument could not be saved and is not overridden, or is nothing that
            `encode` returns.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"arguments must be an object, got {type(values).__name__}")
    return {k: _decode(k, v, remedy % k) for k, v in values.items() if k not in overrides}


def _decode(name: str, value: Any, remedy: str) -> Any:
    if isinstance(value, list):
        return [_decode(name, v, remedy) for v in value]
    if isinstance(value, int) and abs(value) > _MOST:
        raise CheckpointError(f"{name} must be at most {_MOST}, got {value!r}")
    if not isinstance(value, dict):
        return value
    if "linear_schedule" in value:
        return _linear(name, value["linear_schedule"])
    if "optimizer" in value:
        chosen = value["optimizer"]
        found = getattr(torch.optim, chosen, None) if isinstance(chosen, str) else None
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
            return found
        raise CheckpointError(f"{name} names {chosen!r}, no optimiser of torch.optim")
    if isinstance(inside := value.get("mapping"), dict):
        return {k: _decode(f"{name}.{k}", v, remedy) for k, v in inside.items()}
    if "omitted" not in value:
        raise CheckpointError(f"{name} must be a value, got an object of {sorted(value)}")
    raise CheckpointError(
        f"{name} was {value['omitted']} when saved, which JSON cannot hold; pass {remedy} to load"
    )


def _linear(name: str, numbers: Any) -> LinearSchedule:
    plain = isinstance(numbers, list) and len(numbers) == 3
    if not plain or not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
        raise CheckpointError(f"{name}.linear_schedule must be three numbers, got {numbers!r}")
    if not 0 < numbers[2] <= 1:
        raise CheckpointError(f"{name}.linear_schedule must end in (0, 1], got {numbers[2]!r}")
    return LinearSchedule(*numbers)


def describe_space(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a JSON-plain form of a `Box` of ids, a `Discrete` space, or a `Dict` of such."""
    if isinstance(space, spaces.Dict):
        return {"spaces": {key: describe_space(inner) for key, inner in space.items()}}
    if isinstance(space, spaces.Box):
        low, high = int(space.low.min()), int(space.high.max())
        return {"low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
    return {"n": int(cast(spaces.Discrete, space).n)}


def make_space(content: Any, name: str = "space") -> spaces.Space[Any]:
    """Return the space that `describe_space` described.

    Raises:
        CheckpointError: it is the description of none; the message names the field.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} must be an object, got {type(content).__name__}")
    if isinstance(inside := content.get("spaces"), dict):
        return spaces.Dict({key: make_space(v, f"{name}.{key}") for key, v in inside.items()})
    if "n" in content:
        return spaces.Discrete(whole(f"{name}.n", content["n"], 1, _MOST))
    shape, dtype = content.get("shape"), content.get("dtype")
    if not isinstance(shape, list) or len(shape) > 2:
        raise CheckpointError(f"{name}.shape must be a list of columns, got {shape!r}")
    shape = [whole(f"{name}.shape", columns, 0, _MOST_COLUMNS) for columns in shape]
    if dtype not in ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"):
        raise CheckpointError(f"{name}.dtype must be of integers, got {dtype!r}")
    low, high = (whole(f"{name}.{k}", content.get(k), -1, 2**62) for k in ("low", "high"))
    if low > high:
        raise CheckpointError(f"{name}.low must be at most {name}.high, got {low} and {high}")
    return spaces.Box(low, high, tuple(shape), np.dtype(dtype).type)
