"""Whether a language model has rows for the ids of an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_rows", "check_shown"]


def check_rows(lm: PreTrainedModel, rows: int, num_actions: int) -> None:
    """Raise a ValueError if a model of `rows` embeddings lacks some of the actions."""
    if num_actions > rows:
        raise ValueError(
            f"{type(lm).__name__} knows {rows} tokens, the environment has {num_actions} "
            "actions: model and environment need the same tokenizer"
        )


def check_shown(lm: PreTrainedModel, highest: int) -> None:
    """Raise a ValueError if a model has no embedding for ids up to `highest`.

    Prompts and replies may hold ids beyond those of the actions.
    """
    rows = int(cast(nn.Embedding, lm.get_input_embeddings()).weight.shape[0])
    if rows <= highest:
        raise ValueError(
            f"{type(lm).__name__} knows {rows} tokens, the environment's texts hold ids up to "
            f"{highest}: model and environment need the same tokenizer"
        )
