"""What a reward model is, and the checked call that every environment makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.errors import RewardModelError
from text_envs.episodes.types import EpisodeBatch

__all__ = ["RewardModel", "Scored", "bind", "describe", "score", "score_with_details"]

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


_LARGEST = float(np.finfo(np.float32).max)


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
        ValueError: the model cannot score this task.
    """
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
    details: dict[str, NDArray[np.float64]] = {}
    if isinstance(returned, Scored):
        for name, numbers in returned.details.items():
            details[name] = np.broadcast_to(np.asarray(numbers, np.float64), (len(episodes),))
        returned = returned.values
    try:
        values = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RewardModelError(
            f"reward model {describe(model)} returned {type(returned).__name__}, not numbers "
            f"({error}); expected an array of shape ({len(episodes)},)",
            episodes,
        ) from error
    names = _components(model, values, episodes)
    # As float32, which is what agents get: a larger number would become infinite there.
    finite = (np.abs(values) <= _LARGEST).reshape(len(episodes), -1).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise RewardModelError(
            f"reward model {describe(model)} returned {values[row]} for {_quote(episodes, row)}; "
            "rewards must be finite, also as float32",
            episodes,
        )
    if values.ndim == 1:
        return {"task": values}, details
    return {name: values[:, k] for k, name in enumerate(names)}, details


def _components(
    model: RewardModel, values: NDArray[np.float64], episodes: EpisodeBatch
) -> tuple[str, ...]:
    names = tuple(getattr(model, "components", ()))
    count = len(episodes)
    if values.ndim == 2 and len(values) == count:
        names = names or tuple(f"component_{k}" for k in range(values.shape[1]))
        if len(names) == values.shape[1]:
            return names
    elif values.shape == (count,):
        return names
    accepted = f"({count},) or ({count}, K)" if not names else f"({count}, {len(names)})"
    raise RewardModelError(
        f"reward model {describe(model)} returned shape {values.shape} for {count} episodes; "
        f"accepted: {accepted}. The first episode: {_quote(episodes, 0)}",
        episodes,
    )


def _quote(episodes: EpisodeBatch, row: int) -> str:
    return (
        f"example {int(episodes.example_indices[row])}, prompt {episodes.prompts[row]!r}, "
        f"text {episodes.texts[row]!r}"
    )
