"""The loss of behaviour cloning as a pure function; notation as in `agents.losses.on_policy`."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["smoothed_log_probs"]


def smoothed_log_probs(logits: Tensor, actions: Tensor, smoothing: float) -> Tensor:
    r"""Return $(1 - \epsilon) \log \pi(a|s) + \epsilon \, \mathrm{mean}_{v} \log \pi(v|s)$.

    The mean is over the actions that may be written; a forbidden one, of score minus infinity, is
    not part of it. The negative mean is cross-entropy with label smoothing.

    Args:
        logits: `(M, V)` scores of the actions.
        actions: `(M,)` int64, none of them forbidden.
        smoothing: $\epsilon$ in [0, 1).

    Returns:
        `(M,)`.
    """
    log_p = logits.log_softmax(dim=-1)
    chosen = log_p.gather(1, actions[:, None]).squeeze(1)
    allowed = torch.isfinite(logits)
    total = torch.where(allowed, log_p, torch.zeros_like(log_p)).sum(dim=-1)
    return (1 - smoothing) * chosen + smoothing * total / allowed.sum(dim=-1)
