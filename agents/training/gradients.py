"""Scaling gradients down to a norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["clip_gradients"]


def clip_gradients(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale gradients in place so that their norm is at most `max_norm`; return the norm, `()`.

    Those that are small enough are not touched on a processor: a pass over all of them is a
    noticeable part of a step. On other devices to ask would wait for them, so they are multiplied
    by 1, as `torch.nn.utils.clip_grad_norm_` does.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if norm.device.type != "cpu" or scale < 1:
        torch._foreach_mul_(list(gradients), scale)
    return norm
