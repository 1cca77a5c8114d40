r"""Losses and targets of offline value learning as pure functions of tensors with masks.

Shapes and masks are those of `agents.losses.on_policy`: B episodes, T actions of an episode,
right-padded; what stands in a padded place matters neither to a value nor to a gradient.

Notation: $s_1 \dots s_n$ the states in which the agent acted, $u_k$ the action in $s_k$, $r_k$ what
it earned, $s_{n+1}$ the state after the last action (and after the environment's last reply);
$d_{n+1} = 1$ if the episode terminated there, 0 if it was cut; $\bar Q$ the target network's heads;
$\hat Q = \min_i \bar Q_i$. Between two turns, $s_{k+1}$ is the state after the environment's reply:
$\gamma$ counts the agent's tokens and nobody else's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from agents.losses.on_policy import check_matrix, check_shapes, masked_mean, returns_to_go

__all__ = [
    "Utterances",
    "awac_loss",
    "awac_weights",
    "cql_loss",
    "expectile_loss",
    "find_utterances",
    "guided_logits",
    "q_loss",
    "returns_to_go",
    "sum_over_utterances",
    "td_targets",
]


def td_targets(
    rewards: Tensor, next_values: Tensor, next_terminal: Tensor, mask: Tensor, gamma: float
) -> Tensor:
    r"""Return $y_k = r_k + \gamma\,(1 - d_{k+1})\,V(s_{k+1})$, without gradient.

    The flag is that of the NEXT state: the last action of a terminated episode has no future, that
    of a cut one has $V(s_{n+1})$. With $V(s) = \max_a \bar Q(s, a)$ these are the targets of
    Q-learning.

    Args:
        rewards: `(B, T)` $r_k$.
        next_values: `(B, T)` $V(s_{k+1})$, that is `V[:, 1:]` of the values of all states; where
            `next_terminal` is True it is not read.
        next_terminal: bool `(B, T)` $d_{k+1}$.
        mask: bool `(B, T)`, right-padded.
        gamma: discount factor of an agent token (or of an utterance).

    Returns:
        `(B, T)`, 0 in padded places.
    """
    check_matrix(mask, rewards=rewards, next_values=next_values, next_terminal=next_terminal)
    zero = torch.zeros_like(next_values)
    future = torch.where(mask & ~next_terminal, next_values, zero)
    return (torch.where(mask, rewards, torch.zeros_like(rewards)) + gamma * future).detach()


def q_loss(q_values: Tensor, targets: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    r"""Return $L_Q = \sum_i \mathrm{mean}\,(Q_i(s_k, u_k) - y_k)^2$: heads are summed, no 1/2.

    Args:
        q_values: `(2, ...)` $Q_i(s_k, u_k)$, one slice a head.
        targets: `(...)` $y_k$, taken as constants.
        mask: bool `(...)`.
        count: see `masked_mean`.
    """
    check_shapes(mask, targets=targets)
    y = targets.detach()
    losses = [masked_mean(_error(head, y, mask).square(), mask, count) for head in q_values]
    return torch.stack(losses).sum()


def expectile_loss(
    values: Tensor, targets: Tensor, mask: Tensor, tau: float, count: Tensor | None = None
) -> Tensor:
    r"""Return $L_V = \mathrm{mean}\,|\tau - 1[\hat Q_k < V_k]|\,(\hat Q_k - V_k)^2$.

    The minimiser is the $\tau$-expectile of the targets: their mean for $\tau = 1/2$, towards their
    maximum as $\tau \to 1$. Being too low then costs $\tau$, being too high only $1 - \tau$.

    Args:
        values: $V_k$, any shape.
        targets: $\hat Q_k$, the same shape, taken as constants.
        mask: bool, the same shape.
        tau: the expectile, in (0, 1).
        count: see `masked_mean`.
    """
    check_shapes(mask, values=values, targets=targets)
    difference = -_error(values, targets.detach(), mask)  # Q - V
    weight = torch.where(difference < 0, 1.0 - tau, tau)
    return masked_mean(weight * difference.square(), mask, count)


def cql_loss(log_probs: Tensor, count: Tensor | None = None) -> Tensor:
    r"""Return $L_{CQL} = \sum_i \mathrm{mean}\,[\log \sum_a e^{Q_i(s_k, a)} - Q_i(s_k, u_k)]$.

    It is the cross-entropy of the scores $Q_i(s, \cdot)$ for the action in the data: what the data
    did is raised against everything else.

    Args:
        log_probs: `(2, M)` $\log \mathrm{softmax}(Q_i(s_k, \cdot))_{u_k}$ of the M real actions.
        count: see `masked_mean`; None for M.
    """
    places = log_probs.shape[1] if count is None else count
    return -log_probs.sum() / torch.as_tensor(places).clamp(min=1)


def awac_weights(
    advantages: Tensor, mask: Tensor, beta_train: float, max_weight: float = float("inf")
) -> Tensor:
    r"""Return $w_k = \min(e^{\beta_{train} (\hat Q_k - V_k)}, w_{max})$, 0 in padded places.

    Args:
        advantages: $\hat Q_k - V_k$, any shape, taken as constants.
        mask: bool, the same shape.
        beta_train: 0 for plain behaviour cloning. It is not the `beta` of decoding.
        max_weight: $w_{max}$; keeps one large advantage from being the whole gradient.
    """
    check_shapes(mask, advantages=advantages)
    exponents = torch.where(mask, advantages, torch.zeros_like(advantages)).detach() * beta_train
    weights = exponents.exp().clamp(max=max_weight)
    return torch.where(mask, weights, torch.zeros_like(weights))


def awac_loss(
    log_probs: Tensor, weights: Tensor, mask: Tensor, count: Tensor | None = None
) -> Tensor:
    r"""Return $L_{AWAC} = -\mathrm{mean}\,w_k \log \pi_\beta(u_k|s_k)$ over the real actions.

    Args:
        log_probs: $\log \pi_\beta(u_k|s_k)$, any shape.
        weights: $w_k$, the same shape, taken as constants.
        mask: bool, the same shape.
        count: see `masked_mean`.
    """
    check_shapes(mask, log_probs=log_probs, weights=weights)
    safe = torch.where(mask, log_probs, torch.zeros_like(log_probs))
    return -masked_mean(weights.detach() * safe, mask, count)


def _error(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return predicted minus target, 0 (and no gradient) outside of the mask."""
    return torch.where(mask, predicted - target, torch.zeros_like(target))


# -- whole utterances --------------------------------------------------------------------------


class Utterances(NamedTuple):
    """Which actions make up each utterance.

    Attributes:
        number: `(B, T)` int64, the utterance of each action, counted from 0 in each episode.
        first: `(B, U)` int64, an utterance's first action.
        last: `(B, U)` int64, its last action.
        mask: bool `(B, U)`, right-padded.
    """

    number: Tensor
    first: Tensor
    last: Tensor
    mask: Tensor


def find_utterances(turn_ends: Tensor, mask: Tensor) -> Utterances:
    """Return the utterances of episodes; the last one may be unfinished.

    Args:
        turn_ends: bool `(B, T)`, the action is the last of its turn.
        mask: bool `(B, T)`, right-padded.
    """
    check_matrix(mask, turn_ends=turn_ends)
    following = torch.zeros_like(mask)
    following[:, :-1] = mask[:, 1:]
    ends = mask & (turn_ends | ~following)
    begins = mask.clone()
    begins[:, 1:] &= ends[:, :-1]
    number = torch.where(mask, begins.cumsum(dim=1) - 1, 0)
    count = begins.sum(dim=1)  # (B,)
    width = int(count.max()) if len(count) else 0
    exists = torch.arange(width, device=mask.device) < count[:, None]  # (B, U)
    # Both run through the utterances row by row, in the order of the mask.
    first = torch.zeros_like(exists, dtype=torch.long)
    first[exists] = begins.nonzero()[:, 1]
    last = torch.zeros_like(first)
    last[exists] = ends.nonzero()[:, 1]
    return Utterances(number, first, last, exists)


def sum_over_utterances(x: Tensor, mask: Tensor, utterances: Utterances) -> Tensor:
    """Return the sums `(B, U)` of `x` `(B, T)` over the actions of each utterance."""
    check_matrix(mask, x=x)
    sums = x.new_zeros(utterances.mask.shape)
    return sums.scatter_add_(1, utterances.number, torch.where(mask, x, torch.zeros_like(x)))


# -- decoding ----------------------------------------------------------------------------------


def guided_logits(logits: Tensor, advantages: Tensor, beta: float) -> Tensor:
    r"""Return $\log \pi_\beta(a|s) + \beta\,A(s, a)$ up to a constant of the row.

    Args:
        logits: `(B, V)` scores of $\pi_\beta$, processed; what is minus infinity stays so.
        advantages: `(B, V)` $\hat Q(s, a) - V(s)$, or $\hat Q$ alone; finite.
        beta: strength of the guidance at inference; 0 for $\pi_\beta$ itself.
    """
    return torch.add(logits, advantages, alpha=beta)
