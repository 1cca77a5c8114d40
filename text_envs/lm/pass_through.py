"""A cache that keeps nothing: with it, models of transformers ask the accelerator no question.

Without a cache and without a mask, a model of transformers looks whether positions are those of
several sequences packed into one, which are numbers on the accelerator: the host waits for them at
the beginning of every pass. It does not look where it is given a cache.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["pass_through"]


class _Layer(CacheLayerMixin):
    """Hands on the keys and values of the pass."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return what was given."""
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys and the first of them."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of keys from before."""
        return 0

    def get_max_length(self) -> int:
        """Return that there is no limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name in the first releases of transformers 5


def pass_through() -> Cache:
    """Return a cache for one forward pass of whole sequences."""
    return Cache(layer_class_to_replicate=_Layer)
