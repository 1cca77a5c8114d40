"""Copies of what steps: they own their arrays, and plug-ins that change are not shared.

A task is never changed and the weights of models are frozen, so copies share them. What changes
from step to step belongs to one environment: arrays, generators, and whatever a plug-in remembers.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

__all__ = ["OwnsArrays", "fork_of"]


class OwnsArrays:
    """Takes over arrays that arrive read-only as writable ones.

    Pickles whose buffers travel apart, as those of Ray do, come back as views of shared memory.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes."""
        vars(self).update({name: _writable(value) for name, value in state.items()})


def _writable(value: Any) -> Any:
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        return value.copy()
    if isinstance(value, dict):
        return {name: _writable(inner) for name, inner in value.items()}
    return value


def fork_of(plugin: Any, memo: dict[int, Any]) -> Any:
    """Return the plug-in of a copied environment.

    Gymnasium deep-copies the arguments of environments whenever it reads a specification, for which
    a plug-in with a model in it returns itself. A copied environment gets its `fork()`: a plug-in
    that goes on like this one, with the same weights and nothing else in common.
    """
    fork = getattr(plugin, "fork", None)
    return fork() if callable(fork) else copy.deepcopy(plugin, memo)
