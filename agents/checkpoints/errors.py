"""The error of a checkpoint that cannot be read, and how other errors become it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gymnasium.error import Error as GymError
from safetensors.torch import load_file
from torch import Tensor

from text_envs.episodes.errors import DatasetError, GuideError, RewardModelError

__all__ = ["CheckpointError", "finite", "read_json", "read_tensors", "reading", "whole"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file."""


# Errors that are about something else than the file: data, environment, guide, a missing package.
_OTHERS = (DatasetError, GuideError, RewardModelError, ImportError, NotImplementedError, GymError)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Make what goes wrong a CheckpointError that begins with `where`.

    Errors that are about something else than the file (`_OTHERS`) stay as they are.
    """
    try:
        yield
    except CheckpointError as error:
        if str(error).startswith(where):
            raise
        raise CheckpointError(f"{where}: {error}") from error
    except _OTHERS:
        raise
    except Exception as error:  # whatever other content than was written causes further down
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise CheckpointError(f"{where}: {kind}{error}") from error


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Return the object in a JSON file, which has the given keys.

    Raises:
        CheckpointError: it holds something else; the message names the file and the key.
    """
    with reading(path.name):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise CheckpointError(f"holds no object, but {type(content).__name__}")
        for key in keys:
            if key not in content:
                raise CheckpointError(f"has no {key!r}")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return what a safetensors file holds.

    Raises:
        CheckpointError: it is none.
    """
    with reading(path.name):
        return load_file(path)


def whole(name: str, value: Any, least: int = 0, most: int = 2**62) -> int:
    """Return an integer field, checked; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise CheckpointError(f"{name} must be an integer in {least}..{most}, got {value!r}")
    return value


def finite(name: str, tensors: dict[str, Tensor]) -> None:
    """Raise a CheckpointError if weights hold what is no number."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{name}: {key} holds numbers that are not finite")
