"""Log-probabilities with label smoothing, without the scores of all words of all tokens at once."""

from __future__ import annotations

import torch
from torch import Tensor

from text_envs.lm.action_lm import ActionLM
from text_envs.lm.likelihood import linear_scores

__all__ = ["actor_smoothed_log_probs", "linear_smoothed_log_probs", "smoothed_log_probs"]


def actor_smoothed_log_probs(
    actor: ActionLM, hidden: Tensor, actions: Tensor, smoothing: float
) -> Tensor:
    """Return smoothed log-probabilities `(M,)` of actions at states `(M, d)` of a model."""
    if actor._plain_head:
        weight, bias, hidden = actor._output(hidden)
        return linear_smoothed_log_probs(hidden, weight, bias, actions, smoothing)
    return smoothed_log_probs(actor.logits(hidden), actions, smoothing)


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


def linear_smoothed_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    actions: Tensor,
    smoothing: float,
    chunk: int | None = None,
) -> Tensor:
    r"""Return $(1 - \epsilon) \log \pi(a|s) + \epsilon\,\mathrm{mean}_{v} \log \pi(v|s)$.

    The mean is over the words that may be written. Of linear scores $z = h W^\top + b$ it takes one
    product with the mean row, as $\mathrm{mean}_v \log \pi(v|s) - \log \pi(a|s) =
    h \cdot \bar W + \bar b - z_a$.

    Args:
        hidden: `(M, d)`.
        weight: `(V, d)`.
        bias: `(V,)`, minus infinity where a word is forbidden; or None.
        actions: `(M,)` int64, none of them forbidden.
        smoothing: $\epsilon$ in [0, 1).
        chunk: see `linear_log_probs`.

    Returns:
        `(M,)` float32.
    """
    scores, log_probs = linear_scores(hidden, weight, bias, actions, chunk=chunk)
    if bias is None:
        mean = hidden.float() @ weight.float().mean(dim=0)  # (M,)
    else:
        allowed = torch.isfinite(bias)  # (V,)
        share = (allowed / allowed.sum()).to(weight.dtype)
        mean = hidden.float() @ (share @ weight).float()
        mean = mean + bias.masked_fill(~allowed, 0.0).float().sum() / allowed.sum()
    return log_probs + smoothing * (mean - scores)
