"""Constructor arguments and spaces as plain JSON values, and back."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from agents.checkpoints.storage import CheckpointError

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


def decode_all(
    values: dict[str, Any], overrides: dict[str, Any], remedy: str = "%s=..."
) -> dict[str, Any]:
    """Return the arguments that `encode` made plain, apart from those that are overridden.

    Args:
        values: what `encode` returned, by the arguments' names.
        overrides: arguments that are given anew.
        remedy: how to give an argument to `load`, with a place for its name.

    Raises:
        CheckpointError: an argument could not be saved and is not overridden.
    """
    return {k: _decode(k, v, remedy % k) for k, v in values.items() if k not in overrides}


def _decode(name: str, value: Any, remedy: str) -> Any:
    if isinstance(value, list):
        return [_decode(name, v, remedy) for v in value]
    if not isinstance(value, dict):
        return value
    if "linear_schedule" in value:
        return LinearSchedule(*value["linear_schedule"])
    if "optimizer" in value:
        found = getattr(torch.optim, value["optimizer"], None)
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
            return found
        raise CheckpointError(f"{name} names {value['optimizer']!r}, no optimiser of torch.optim")
    if "mapping" in value:
        return {k: _decode(f"{name}.{k}", v, remedy) for k, v in value["mapping"].items()}
    raise CheckpointError(
        f"{name} was {value['omitted']} when saved, which JSON cannot hold; pass {remedy} to load"
    )


def describe_space(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a JSON-plain form of a `Box` of ids, a `Discrete` space, or a `Dict` of such."""
    if isinstance(space, spaces.Dict):
        return {"spaces": {key: describe_space(inner) for key, inner in space.items()}}
    if isinstance(space, spaces.Box):
        low, high = int(space.low.min()), int(space.high.max())
        return {"low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
    return {"n": int(cast(spaces.Discrete, space).n)}


def make_space(content: dict[str, Any]) -> spaces.Space[Any]:
    """Return the space that `describe_space` described."""
    if "spaces" in content:
        return spaces.Dict({key: make_space(inner) for key, inner in content["spaces"].items()})
    if "n" in content:
        return spaces.Discrete(content["n"])
    return spaces.Box(
        content["low"], content["high"], tuple(content["shape"]), np.dtype(content["dtype"]).type
    )
