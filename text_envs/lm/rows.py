"""Rows of an embedding that are learnt, behind rows that stay as they are.

Where a model is frozen and only adapters are trained, appended tokens (instructions, returns) still
need vectors of their own. Resizing the embedding would make a second one, all of it trained; here
the frozen one stays what it is, shared with whoever shares the model, and the new rows lie beside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LearntRows", "add_rows", "count_rows"]


class LearntRows(nn.Module):
    """An embedding of `first + count` ids, of which the last `count` are parameters of its own.

    Attributes:
        base_layer: the embedding of the other ids.
        rows: `(count, d)` float32, at first as spread as those of the base.

    Args:
        base: the frozen embedding.
        first: id of the first row; ids between the base's and this one are never asked for.
        count: how many there are.
    """

    def __init__(self, base: nn.Module, first: int, count: int) -> None:
        super().__init__()
        weight = cast(Tensor, base.weight)
        self.base_layer, self.first, self.num_embeddings = base, first, first + count
        # Some families multiply what they look up; so must whoever stands in for them.
        self.scale = float(cast(Any, getattr(base, "embed_scale", 1.0)))
        rows = torch.randn(count, weight.shape[1], device=weight.device)
        self.rows = nn.Parameter(rows * weight[:1000].float().std())

    @property
    def weight(self) -> Tensor:
        """The rows of the base, `(V, d)`: what is tied to an output layer, and has its type."""
        return cast(Tensor, self.base_layer.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors `(..., d)` of ids `(...)`."""
        own = ids >= self.first
        found = cast(Tensor, self.base_layer(ids.masked_fill(own, 0)))
        learnt = nn.functional.embedding((ids - self.first).clamp(min=0), self.rows) * self.scale
        return torch.where(own[..., None], learnt.to(found.dtype), found)


def count_rows(lm: PreTrainedModel) -> int:
    """Return how many ids a language model has vectors for."""
    embeddings: Any = lm.get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", None)
    return int(embeddings.weight.shape[0] if rows is None else rows)


def add_rows(lm: PreTrainedModel, first: int, count: int) -> LearntRows:
    """Let a language model learn `count` ids from `first` on, its other weights as they are."""
    rows = LearntRows(lm.get_input_embeddings(), first, count)
    lm.set_input_embeddings(cast(Any, rows))
    return rows
