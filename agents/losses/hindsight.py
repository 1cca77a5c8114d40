r"""Losses of hindsight instruction relabelling, as pure functions of tensors with masks.

Notation: $o_i$ text i of a batch of b, $q_i$ its question, $p_i$ the instruction that is right for
it after relabelling, $s(o, q, p) = \frac{1}{T} \sum_t \log P(o_t | p, q, o_{<t})$ its mean
log-probability a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents.losses.on_policy import masked_mean

__all__ = ["contrastive_loss", "entropy_loss", "mean_log_probs", "supervised_loss"]


def mean_log_probs(log_probs: Tensor, mask: Tensor) -> Tensor:
    r"""Return $s_i = \frac{1}{T_i} \sum_t \log P_{it}$, `(B,)`; 0 for a row without a step.

    Args:
        log_probs: `(B, T)`.
        mask: bool `(B, T)`, the steps that count, at least one a row.

    Raises:
        ValueError: the shapes differ, or the mask is not boolean.
    """
    if mask.dtype != torch.bool or log_probs.shape != mask.shape or mask.ndim != 2:
        raise ValueError(
            f"expected log_probs and a boolean mask of one shape (B, T), got "
            f"{tuple(log_probs.shape)} and {mask.dtype} {tuple(mask.shape)}"
        )
    kept = torch.where(mask, log_probs, torch.zeros_like(log_probs))
    return kept.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def supervised_loss(scores: Tensor, count: int | None = None) -> Tensor:
    r"""Return $L_{sup} = -\frac{1}{b} \sum_i s(o_i, q_i, p_i)$, nats a token.

    Args:
        scores: `(b,)` mean log-probabilities under the right instruction.
        count: b, if it is another: that of a whole minibatch, of which these are a part.
    """
    return -scores.sum() / (count or len(scores))


def contrastive_loss(
    scores: Tensor, right: Tensor, smoothing: float = 0.0, count: int | None = None
) -> Tensor:
    r"""Return the cross entropy of finding the right one of K contexts of each text.

    $L_{con} = -\frac{1}{b} \sum_i \left[(1 - s) \log c_{i,r_i} +
    \frac{s}{K - 1} \sum_{k \ne r_i} \log c_{ik}\right]$ with
    $c_{ik} = e^{s_{ik}} / \sum_j e^{s_{ij}}$.

    Which contexts are compared makes the variant. The K instructions of the same question (two-way
    for two of them): $c_{i,r} = p^+ / (p^+ + p^-)$ with $p^\pm = e^{s}$ under the right and the
    opposite instruction. Or the b pairs $(q_k, p_k)$ of the batch, $r_i = i$: then a text that is
    right for several questions counts as wrong for all but one, so it suits long texts only.

    Args:
        scores: `(b, K)` mean log-probability of text i in context k.
        right: `(b,)` int64, the right context of each text.
        smoothing: weight given to the other contexts together, [0, 1).
        count: see `supervised_loss`.

    Raises:
        ValueError: the shapes do not fit, or there is nothing to compare with.
    """
    if scores.ndim != 2 or right.shape != scores.shape[:1] or scores.shape[1] < 2:
        raise ValueError(
            f"scores must be (b, K) with K at least 2 and right (b,), got {tuple(scores.shape)} "
            f"and {tuple(right.shape)}"
        )
    log_c = scores.log_softmax(dim=1)  # (b, K)
    hit = log_c.gather(1, right[:, None]).squeeze(1)
    others = (log_c.sum(dim=1) - hit) / (scores.shape[1] - 1)
    return -((1 - smoothing) * hit + smoothing * others).sum() / (count or len(scores))


def entropy_loss(entropies: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    r"""Return $L_{ent} = \sum_v P_v \log P_v$, the mean over the steps of minus the entropy.

    Minimising it raises the entropy.

    Args:
        entropies: `(B, T)` $H_t$ of the distribution that each token was drawn from, nats.
        mask: bool `(B, T)`.
        count: see `masked_mean`.
    """
    return -masked_mean(entropies, mask, count)
