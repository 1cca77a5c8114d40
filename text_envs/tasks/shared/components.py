"""The weights argument of tasks whose reward is a sum of named components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from text_envs.episodes.errors import suggest

__all__ = ["checked_weights"]


def checked_weights(weights: Mapping[str, float], accepted: Iterable[str]) -> dict[str, float]:
    """Return the weights that are not 0, as floats.

    Args:
        weights: component to weight.
        accepted: the names of the task's components.

    Raises:
        ValueError: an unknown component, or none left.
    """
    accepted = tuple(accepted)
    for name in weights:
        if name not in accepted:
            raise ValueError(f"unknown component {name!r}.{suggest(str(name), accepted)}")
    chosen = {name: float(weight) for name, weight in weights.items() if weight != 0}
    if not chosen:
        raise ValueError(
            f"weights must give at least one component a weight other than 0, got {dict(weights)}"
        )
    return chosen
