"""Nested plain values with arrays as JSON and safetensors, and the state of an optimiser."""

from __future__ import annotations

import json
import math
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from agents.checkpoints.errors import CheckpointError, read_tensors, reading, whole
from agents.common.master_weights import kind_of

__all__ = ["load_optimizer", "load_tree", "optimizer_tree", "save_tree"]

_MARKS = {"__tensor__", "__array__"}

# What optimisers of torch remember that has the shape of its parameter.
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg"}
_MOMENTS = _SQUARES | {"exp_avg", "grad_avg", "master", "momentum_buffer"}


def save_tree(tree: Any, folder: Path, name: str) -> None:
    """Write nested plain values, arrays and tensors as `<name>.json` and `<name>.safetensors`.

    Raises:
        TypeError: a value is neither; the message names where.
    """
    arrays: dict[str, Tensor] = {}
    plain = _split(tree, name, arrays)
    (folder / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")
    save_file(arrays, folder / f"{name}.safetensors")


def load_tree(folder: Path, name: str) -> Any:
    """Return what `save_tree` wrote; tensors on the CPU.

    Raises:
        CheckpointError: the files are of something else; the message names file and field.
    """
    file = folder / f"{name}.json"
    arrays = read_tensors(folder / f"{name}.safetensors")
    with reading(file.name):
        return _join(json.loads(file.read_bytes()), name, arrays)


def _split(value: Any, where: str, arrays: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        key, kind = str(len(arrays)), "tensor" if isinstance(value, Tensor) else "array"
        tensor = value.detach().cpu() if isinstance(value, Tensor) else _as_tensor(value, where)
        arrays[key] = tensor.clone().contiguous()
        dtype = None if isinstance(value, Tensor) else value.dtype.str
        return {f"__{kind}__": key, "dtype": dtype}
    if isinstance(value, list | tuple):
        return [_split(v, f"{where}[{i}]", arrays) for i, v in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(k, str) and k not in _MARKS for k in value):
        return {k: _split(v, f"{where}.{k}", arrays) for k, v in value.items()}
    raise TypeError(f"{where} is a {type(value).__name__}; accepted: plain values and arrays")


def _as_tensor(array: np.ndarray[Any, Any], where: str) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{where} is an array of {array.dtype}; accepted: numbers")
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))


def _join(value: Any, where: str, arrays: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_join(v, f"{where}[{i}]", arrays) for i, v in enumerate(value)]
    if isinstance(value, dict):
        mark = next(iter(_MARKS & value.keys()), None)
        if mark is None:
            return {k: _join(v, f"{where}.{k}", arrays) for k, v in value.items()}
        key = value[mark]
        if not isinstance(key, str) or key not in arrays:
            raise CheckpointError(f"{where} names the array {key!r}, which is not there")
        if mark == "__tensor__":
            return arrays[key]
        return _as_array(arrays[key], value.get("dtype"), where)
    return value


def _as_array(tensor: Tensor, dtype: Any, where: str) -> np.ndarray[Any, Any]:
    """Return a tensor as the array that it was, which had numbers of the same kind."""
    array: np.ndarray[Any, Any] = tensor.numpy()
    wanted = np.dtype(dtype) if isinstance(dtype, str) else None
    if wanted is None or (wanted.kind, wanted.itemsize) != (array.dtype.kind, array.dtype.itemsize):
        raise CheckpointError(f"{where} holds {array.dtype}, not the {dtype!r} it is said to be")
    return array.astype(wanted)


# -- optimisers --------------------------------------------------------------------------------


def optimizer_tree(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state for `save_tree`: string keys, parameters by their number."""
    state = optimizer.state_dict()
    return {
        "state": {str(k): dict(v) for k, v in state["state"].items()},
        "param_groups": state["param_groups"],
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tree: Any) -> None:
    """Put back what `optimizer_tree` returned.

    Raises:
        CheckpointError: it belongs to another set of parameters, or holds what no optimiser would.
    """
    with reading("optimizer.json"):
        try:
            groups, entries = list(tree["param_groups"]), dict(tree["state"])
            own = optimizer.state_dict()["param_groups"]
            _check_groups(groups, own)
        except CheckpointError as error:
            raise CheckpointError(f"the optimiser's state is of another policy: {error}") from error
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state = {}
        for key, entry in entries.items():
            if not (key.isascii() and key.isdigit()) or str(int(key)) != key:
                raise CheckpointError(f"state names the parameter {key!r}, which is no number")
            number = whole("the number of a parameter in state", int(key), 0, len(parameters) - 1)
            needed = _entries(optimizer, parameters[number])
            _check_entry(f"state.{key}", entry, parameters[number], needed)
            state[number] = entry
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check_groups(groups: list[Any], own: list[dict[str, Any]]) -> None:
    if len(groups) != len(own):
        raise CheckpointError(f"param_groups has {len(groups)} groups, here are {len(own)}")
    for i, (group, mine) in enumerate(zip(groups, own, strict=True)):
        where = f"param_groups[{i}]"
        if not isinstance(group, dict) or group.keys() != mine.keys():
            raise CheckpointError(f"{where} must have the entries {sorted(mine)}")
        numbers = group["params"]
        if numbers != mine["params"] or any(isinstance(n, bool) for n in numbers):
            raise CheckpointError(f"{where}.params has not the numbers of these parameters")
        for name in group.keys() - {"params"}:
            if not _alike(group[name], mine[name]):
                raise CheckpointError(
                    f"{where}.{name} must be like {mine[name]!r}, got {group[name]!r}"
                )


def _alike(value: Any, own: Any) -> bool:
    """Return whether an option is of the kind of the present one, and finite."""
    if isinstance(own, tuple | list):
        fits = isinstance(value, tuple | list) and len(value) == len(own)
        return fits and all(_alike(*pair) for pair in zip(value, own, strict=True))
    if isinstance(own, bool) or own is None:
        return isinstance(value, bool | None)
    if isinstance(own, Real):
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and math.isfinite(value) and value >= 0
    return type(value) is type(own)


def _check_entry(where: str, entry: Any, parameter: Tensor, needed: set[str]) -> None:
    """Check what an optimiser remembers of one parameter."""
    if not isinstance(entry, dict) or (needed and entry.keys() != needed):
        raise CheckpointError(f"{where} must have the entries {sorted(needed)}")
    for name, value in entry.items():
        at = f"{where}.{name}"
        if isinstance(value, Tensor):
            _check_moment(at, name, value, parameter)
        elif not (value is None or isinstance(value, Real)) or isinstance(value, bool):
            raise CheckpointError(f"{at} must be numbers, got {type(value).__name__}")
        if name == "step" and (value is None or not 0 <= float(value) < 2**53 or float(value) % 1):
            raise CheckpointError(f"{at} must be a whole number of steps, got {value}")


def _check_moment(at: str, name: str, value: Tensor, parameter: Tensor) -> None:
    shape = torch.Size([]) if name == "step" else parameter.shape
    if (name == "step" or name in _MOMENTS) and value.shape != shape:
        raise CheckpointError(f"{at} has the shape {tuple(value.shape)}, not {tuple(shape)}")
    if not value.is_floating_point() or not bool(value.isfinite().all()):
        raise CheckpointError(f"{at} must hold finite floats, got {value.dtype}")
    if name in _SQUARES and bool((value < 0).any()):
        raise CheckpointError(f"{at} must not be negative")


def _entries(optimizer: torch.optim.Optimizer, parameter: Tensor) -> set[str]:
    """Return what an optimiser remembers of a parameter; nothing where that is not known."""
    if not issubclass(kind_of(optimizer), torch.optim.Adam | torch.optim.AdamW):
        return set()
    found = {"step", "exp_avg", "exp_avg_sq"}
    if kind_of(optimizer) is not type(optimizer) and parameter.itemsize < 4:
        found.add("master")
    return found | ({"max_exp_avg_sq"} if optimizer.defaults.get("amsgrad") else set())
