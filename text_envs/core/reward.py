"""What a reward model is, and the checked call that every environment makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.ledger import REPLY, NotFiniteError, as_numbers, check_names
from text_envs.core.task import Task
from text_envs.episodes.errors import RewardModelError
from text_envs.episodes.types import EpisodeBatch

__all__ = [
    "RewardModel",
    "Scored",
    "bind",
    "component_names",
    "describe",
    "label",
    "score",
    "score_with_details",
]

# Returns (B,), or (B, K) with one column per name in the model's `components` attribute, or
# either of them within a `Scored`.
RewardModel: TypeAlias = Callable[[EpisodeBatch], Any]


@dataclass(frozen=True)
class Scored:
    """Rewards, and numbers worth reading beside them.

    Attributes:
        values: `(B,)` or `(B, K)`, what is paid.
        details: `(B,)` each; shown in `info["reward_details"]`, part of no sum.
    """

    values: Any
    details: Mapping[str, Any] = field(default_factory=dict)


def label(model: RewardModel) -> str:
    """Return the name of a reward model, by which details of its rewards are called."""
    name = getattr(model, "name", None) or getattr(model, "__name__", None)
    return name if isinstance(name, str) else type(model).__name__


def describe(model: RewardModel) -> str:
    """Return the name by which messages speak of a reward model."""
    name = label(model)
    return name if name == type(model).__name__ else repr(name)


def bind(model: RewardModel, task: Task) -> None:
    """Show a reward model the task whose texts it will score, if it has a method `bind(task)`.

    Raises:
        ValueError: the model cannot score this task, or a ledger cannot have its names.
    """
    component_names(model)
    method = getattr(model, "bind", None)
    if callable(method):
        method(task)


def score(model: RewardModel, episodes: EpisodeBatch) -> dict[str, NDArray[np.float64]]:
    """Call a reward model once and return its ledger.

    Args:
        model: the reward model.
        episodes: the B finished episodes.

    Returns:
        `{"task": (B,)}`, or one entry `(B,)` per component of a model that returns `(B, K)`.

    Raises:
        RewardModelError: the model raised, returned another shape, or something not finite; the
            message names the model, the example and the text, and the error carries `episodes`.
    """
    return score_with_details(model, episodes)[0]


def score_with_details(
    model: RewardModel, episodes: EpisodeBatch
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Call a reward model once and return its ledger and its details, see `score`."""
    try:
        returned = model(episodes)
    except RewardModelError as error:  # of a model inside this one, which has been named already
        raise RewardModelError(str(error), episodes) from error
    except Exception as error:
        raise RewardModelError(
            f"reward model {describe(model)} raised {type(error).__name__}: {error}, scoring "
            f"{len(episodes)} episodes, the first: {_quote(episodes, 0)}",
            episodes,
        ) from error
    try:
        details: dict[str, NDArray[np.float64]] = {}
        if isinstance(returned, Scored):
            details = _as_details(returned.details, len(episodes))
            returned = returned.values
        values = as_numbers(returned)
        names = _components(model, values, len(episodes))
    except NotFiniteError as error:
        row = error.index[0] if error.index and error.index[0] < len(episodes) else 0
        raise RewardModelError(
            f"reward model {describe(model)} returned {error.value} for {_quote(episodes, row)}; "
            "rewards must be finite, also as float32",
            episodes,
        ) from error
    except ValueError as error:
        raise RewardModelError(
            f"reward model {describe(model)} returned {error}; expected an array of shape "
            f"({len(episodes)},). The first episode: {_quote(episodes, 0)}",
            episodes,
        ) from error
    if values.ndim == 1:
        return {names[0] if names else REPLY: values}, details
    return {name: values[:, k] for k, name in enumerate(names)}, details


def component_names(model: Any) -> tuple[str, ...]:
    """Return what a reward model calls its components; empty for a single number.

    Raises:
        ValueError: names that a ledger cannot have.
    """
    return check_names(getattr(model, "components", None) or ())


def _components(model: RewardModel, values: NDArray[np.float64], count: int) -> tuple[str, ...]:
    names = component_names(model)
    if values.ndim == 2 and len(values) == count and values.shape[1]:
        names = names or tuple(f"component_{k}" for k in range(values.shape[1]))
        if len(names) == values.shape[1]:
            return names
    elif values.shape == (count,) and len(names) <= 1:
        return names
    accepted = f"({count},) or ({count}, K)" if not names else f"({count}, {len(names)})"
    raise ValueError(f"shape {values.shape} for {count} episodes; accepted: {accepted}")


def _as_details(details: Any, count: int) -> dict[str, NDArray[np.float64]]:
    """Return details as one number an episode; NaN stands for none."""
    if not isinstance(details, Mapping):
        raise ValueError(f"details of type {type(details).__name__}, not a mapping of names")
    found: dict[str, NDArray[np.float64]] = {}
    for name in check_names(details, reserved=False):
        given = details[name]
        array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
        if array.dtype.kind not in "biuf" or array.shape not in ((), (count,)):
            raise ValueError(
                f"detail {name!r} as {array.dtype} of shape {array.shape}; accepted: a number, or "
                f"({count},) of them"
            )
        found[name] = np.broadcast_to(array.astype(np.float64), (count,))
    return found


def _quote(episodes: EpisodeBatch, row: int) -> str:
    return (
        f"example {int(episodes.example_indices[row])}, prompt {episodes.prompts[row]!r}, "
        f"text {episodes.texts[row]!r}"
    )
