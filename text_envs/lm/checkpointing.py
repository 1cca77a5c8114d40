"""Gradient checkpointing of a language model that stays in evaluation mode.

The layers of transformers compute their states again in the backward pass, instead of keeping them,
in training mode only. An `ActionLM` keeps its model in evaluation mode, because dropout would make
two scores of one text differ. `recomputing` lets the layers checkpoint all the same: each is told
that it trains when it is asked whether to checkpoint, and that it does not when it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["is_checkpointing", "recomputing", "set_checkpointing"]


def is_checkpointing(lm: nn.Module) -> bool:
    """Return whether a model is to checkpoint, be it by `set_checkpointing` or by its owner."""
    return any(getattr(module, "gradient_checkpointing", False) for module in lm.modules())


def set_checkpointing(lm: PreTrainedModel, on: bool) -> None:
    """Let a model keep the input of each layer only, and compute it again in the backward pass.

    The gradients are the same; a pass costs a forward pass more.

    Args:
        lm: a model of transformers.
        on: False lets it keep everything again.

    Raises:
        ValueError: the family has no layers that can.
    """
    layers = _layers(lm)
    if on and not layers:
        raise _none(lm)
    for module in lm.modules():  # also models that note it at their stack
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = cast(Any, False)
    for layer in layers:
        layer.gradient_checkpointing = on


@contextmanager
def recomputing(lm: nn.Module) -> Iterator[None]:
    """While in this context, forward passes with gradients checkpoint if the model is to.

    Raises:
        ValueError: it is to, and the family has no layers that can.
    """
    wanted = torch.is_grad_enabled() and is_checkpointing(lm)
    chosen = [layer for layer in _layers(lm) if layer.gradient_checkpointing] if wanted else []
    if wanted and not chosen:
        raise _none(lm)
    before = [vars(layer).get("_gradient_checkpointing_func") for layer in chosen]
    for layer in chosen:
        layer.training = True
        layer._gradient_checkpointing_func = partial(_checkpoint, layer)
    try:
        yield
    finally:
        for layer, function in zip(chosen, before, strict=True):
            layer.training = False
            layer._gradient_checkpointing_func = function


def _checkpoint(layer: Any, run: Callable[..., Any], *args: Any) -> Any:
    def evaluate(*args: Any) -> Any:
        # Both times: in the forward pass, and in the backward pass, when the context is long over.
        training, layer.training = layer.training, False
        try:
            return run(*args)
        finally:
            layer.training = training

    # Nothing is random in evaluation mode.
    return checkpoint(evaluate, *args, use_reentrant=False, preserve_rng_state=False)


def _layers(lm: nn.Module) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]


def _none(lm: nn.Module) -> ValueError:
    return ValueError(
        f"{type(lm).__name__} has no layers that can be checkpointed: every state would be kept, "
        "silently. Accepted: gradient_checkpointing=False (at a model that was given, "
        "model.gradient_checkpointing_disable()) and a smaller micro_batch_size"
    )
