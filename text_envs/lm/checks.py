"""Whether a language model has rows and positions for what an environment shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from text_envs.lm.rows import count_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "check_attention",
    "check_backbone",
    "check_positions",
    "check_rows",
    "check_shown",
    "scale_between",
]


def check_backbone(lm: PreTrainedModel) -> None:
    """Raise a ValueError if a model is no backbone with an output layer on it."""
    if lm.get_output_embeddings() is None or lm.base_model is lm:
        raise ValueError(
            f"{type(lm).__name__} has no separate backbone and output layer; accepted: causal "
            "language models of transformers such as GPT2LMHeadModel or LlamaForCausalLM"
        )


def check_positions(lm: PreTrainedModel, columns: int) -> None:
    """Raise a ValueError if a model has fewer positions than an observation has columns."""
    positions = getattr(lm.config, "max_position_embeddings", None)
    if positions is not None and positions < columns:
        raise ValueError(
            f"{type(lm).__name__} has {positions} positions, observations have {columns} "
            "columns; lower prompt_length or max_tokens of the environment"
        )


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
    rows = count_rows(lm)
    if rows <= highest:
        raise ValueError(
            f"{type(lm).__name__} knows {rows} tokens, the environment's texts hold ids up to "
            f"{highest}: model and environment need the same tokenizer"
        )


def check_attention(lm: PreTrainedModel) -> None:
    """Raise a ValueError if a model's attention takes no mask of its own."""
    implementation = getattr(lm.config, "_attn_implementation", "eager")
    if implementation not in ("eager", "sdpa", None):
        raise ValueError(
            f"attention implementation {implementation!r} takes no mask of its own; load the "
            "model with attn_implementation='sdpa' (or 'eager')"
        )


def scale_between(lm: PreTrainedModel, plain: Tensor, scores: Tensor) -> float:
    """Return the factor that makes `plain`, what an output layer returns, the `scores` of a model.

    Raises:
        ValueError: there is none, or the scores are not finite.
    """
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(
            f"{type(lm).__name__} returns scores that are not finite: its weights are "
            "damaged, or it diverged in training"
        )
    scale = float((scores * plain).sum() / plain.square().sum().clamp(min=1e-30))
    scale = 1.0 if abs(scale - 1.0) < 1e-3 or not plain.any() else scale
    tolerance = 1e-4 if lm.dtype == torch.float32 else 5e-2
    if not torch.allclose(plain * scale, scores, rtol=tolerance, atol=tolerance):
        raise ValueError(
            f"{type(lm).__name__} transforms the scores of its output layer in a way that "
            "is not supported; accepted: a linear output layer, scaled or not"
        )
    return scale
