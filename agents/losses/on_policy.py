r"""Losses and estimators as pure functions of tensors with masks.

Shapes: B episodes, T steps of an episode. A mask is True where a step exists; episodes are
right-padded, so that a row of a mask reads 1...1 0...0. What stands in a padded place never
matters: neither to a value nor to a gradient, not even if it is not a number.

Notation: $\pi$ the policy being trained, $\pi_{old}$ the one that sampled, $\pi_0$ the frozen
reference; $r_t$ reward, $V_t$ value, $A_t$ advantage, $G_t$ return, all of step $t$.
"""

from __future__ import annotations

import torch
from torch import Tensor

from text_envs.lm.likelihood import entropy, linear_log_probs, token_log_probs
from text_envs.lm.transfers import on_host

__all__ = [
    "adaptive_kl_coefficient",
    "check_matrix",
    "check_shapes",
    "clip_fraction",
    "clipped_policy_loss",
    "discounted_sums",
    "entropy",
    "explained_variance",
    "gae",
    "kl_k1",
    "kl_k3",
    "kl_penalised_rewards",
    "linear_log_probs",
    "masked_mean",
    "masked_whiten",
    "returns_to_go",
    "token_log_probs",
    "value_loss",
]


def check_shapes(mask: Tensor, **tensors: Tensor) -> None:
    """Raise a ValueError unless every tensor has the shape of the boolean mask."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, got {mask.dtype}")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, the mask {tuple(mask.shape)}; "
                "they must be equal"
            )


def check_matrix(mask: Tensor, **tensors: Tensor) -> None:
    """Raise a ValueError unless all are `(B, T)` and the mask is right-padded."""
    check_shapes(mask, **tensors)
    if mask.ndim != 2:
        raise ValueError(f"expected (episodes, steps), got a mask of shape {tuple(mask.shape)}")
    (steps,) = on_host(mask)
    if (steps[:, 1:] & ~steps[:, :-1]).any():
        raise ValueError("mask must be right-padded: a step follows a padded place")


def masked_mean(x: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    r"""Return $\sum_i m_i x_i / N$ with $N = \sum_i m_i$; 0 where the mask is empty.

    Args:
        x: any shape.
        mask: bool, the same shape.
        count: $N$, if it is another: `()`, the places of a whole minibatch of which these are a
            part. The results of its parts then add up to the mean over all of it.

    Returns:
        a scalar.
    """
    check_shapes(mask, x=x)
    places = mask.sum() if count is None else count
    return torch.where(mask, x, torch.zeros_like(x)).sum() / places.clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    r"""Return $(x - \mathrm{mean}) / (\mathrm{std} + \epsilon)$ over the mask, 0 outside of it.

    The standard deviation is the unbiased one (divided by $n - 1$), as in Stable-Baselines3's
    normalisation of advantages; a single value is left as it is, as there.

    Args:
        x: any shape.
        mask: bool, the same shape.
        eps: added to the standard deviation.
    """
    check_shapes(mask, x=x)
    zero = torch.zeros_like(x)
    n = mask.sum()
    centred = torch.where(mask, x - masked_mean(x, mask), zero)
    std = (centred.square().sum() / (n - 1).clamp(min=1)).sqrt()
    return torch.where(n > 1, centred / (std + eps), torch.where(mask, x, zero))


def discounted_sums(x: Tensor, discount: float) -> Tensor:
    r"""Return $y_t = x_t + c\,y_{t+1} = \sum_{k \ge t} c^{k-t} x_k$ along the last dimension.

    Doubling: after step $i$ each place holds the sum of the next $2^i$ terms, so T steps of time
    take $\lceil \log_2 T \rceil$ operations on whole tensors instead of T on columns, and fewer
    roundings. Nothing is divided by a power of c, so that a small one does no harm.

    Args:
        x: `(..., T)`.
        discount: $c$.

    >>> import torch
    >>> discounted_sums(torch.tensor([1.0, 2.0, 4.0]), 0.5).tolist()
    [3.0, 4.0, 4.0]
    """
    reach, weight, steps = 1, discount, x.shape[-1]
    while reach < steps and weight != 0:
        ahead = torch.nn.functional.pad(x[..., reach:], (0, reach))
        x = x + weight * ahead
        reach, weight = 2 * reach, weight * weight
    return x


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Generalised advantage estimation over whole episodes.

    $\delta_t = r_t + \gamma V_{t+1} - V_t$,
    $A_t = \delta_t + \gamma \lambda A_{t+1}$, $G_t = A_t + V_t$,
    where $V$ after the last step is 0: an episode that ended has no future. Only an episode cut
    from outside (truncated, not terminated) has one, given as `bootstrap`.
    $\lambda = 0$ gives one-step temporal differences, $\lambda = 1$ the sampled return minus $V$.

    Args:
        rewards: `(B, T)`.
        values: `(B, T)` $V_t$, taken as constants.
        mask: bool `(B, T)`, right-padded.
        gamma: discount factor, 1 for text.
        lam: the trade-off $\lambda$ between bias and variance.
        bootstrap: `(B,)` value of the state after the last step; 0 where the episode terminated.

    Returns:
        advantages and returns, each `(B, T)`, 0 in padded places, without gradient.

    Raises:
        ValueError: shapes differ or the mask is not right-padded.
    """
    check_matrix(mask, rewards=rewards, values=values)
    if bootstrap is not None and bootstrap.shape != rewards.shape[:1]:
        raise ValueError(
            f"bootstrap must be (B,) = ({len(rewards)},), got {tuple(bootstrap.shape)}"
        )
    zero = torch.zeros_like(values)
    rewards = torch.where(mask, rewards, zero).detach()
    values = torch.where(mask, values, zero).detach()
    next_values = torch.cat([values[:, 1:], zero[:, :1]], dim=1)  # (B, T), V = 0 after the end
    if bootstrap is not None:
        last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        next_values = torch.where(last, bootstrap.detach()[:, None], next_values)
    deltas = torch.where(mask, rewards + gamma * next_values - values, zero)
    advantages = discounted_sums(deltas, gamma * lam)
    return advantages, advantages + values


def returns_to_go(
    rewards: Tensor, mask: Tensor, gamma: float, last_values: Tensor | None = None
) -> Tensor:
    r"""Return $G_k = r_k + \gamma G_{k+1}$ with $G_{n+1}$ given, without gradient.

    Args:
        rewards: `(B, T)`.
        mask: bool `(B, T)`, right-padded.
        gamma: discount factor.
        last_values: `(B,)` $G_{n+1}$: what a cut episode may still expect, 0 for a terminated
            one; None for 0 everywhere.

    Returns:
        `(B, T)`, 0 in padded places.

    >>> import torch
    >>> returns_to_go(torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3).bool(), 0.5).tolist()
    [[3.0, 4.0, 4.0]]
    """
    check_matrix(mask, rewards=rewards)
    rewards = torch.where(mask, rewards, torch.zeros_like(rewards)).detach()
    if last_values is not None:
        last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        rewards = torch.where(last, rewards + gamma * last_values.detach()[:, None], rewards)
    return discounted_sums(rewards, gamma)


def clipped_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float,
    count: Tensor | None = None,
) -> Tensor:
    r"""Return $-\mathrm{mean}\,\min(\rho A, \mathrm{clip}(\rho, 1 \pm \epsilon) A)$.

    $\rho_t = \pi(a_t|s_t) / \pi_{old}(a_t|s_t)$; the gradient flows through $\log \pi$ only.

    Args:
        log_probs: $\log \pi(a_t|s_t)$, any shape.
        old_log_probs: $\log \pi_{old}(a_t|s_t)$, the same shape.
        advantages: $A_t$, the same shape.
        mask: bool, the same shape.
        clip_range: $\epsilon$.
        count: see `masked_mean`.
    """
    check_shapes(mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    zero = torch.zeros_like(log_probs)
    # Masked before exp: an infinite ratio in a padded place would turn its zero gradient into NaN.
    ratio = torch.where(mask, log_probs - old_log_probs.detach(), zero).exp()
    advantages = torch.where(mask, advantages, zero).detach()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask, count)


def clip_fraction(
    log_probs: Tensor,
    old_log_probs: Tensor,
    mask: Tensor,
    clip_range: float,
    count: Tensor | None = None,
) -> Tensor:
    r"""Return the share of steps with $|\rho_t - 1| > \epsilon$, a scalar in [0, 1]."""
    check_shapes(mask, log_probs=log_probs, old_log_probs=old_log_probs)
    outside = ((log_probs - old_log_probs).detach().exp() - 1).abs() > clip_range
    return masked_mean(outside.to(log_probs.dtype), mask, count)


def value_loss(
    values: Tensor,
    returns: Tensor,
    mask: Tensor,
    old_values: Tensor | None = None,
    clip_range: float | None = None,
    count: Tensor | None = None,
) -> Tensor:
    r"""Return $\mathrm{mean}\,(G - V)^2$, or the same with a value kept close to the old one.

    With `clip_range` $\epsilon_V$: $V$ is replaced by
    $V_{old} + \mathrm{clip}(V - V_{old}, \pm \epsilon_V)$. This is Stable-Baselines3's form: no
    factor 1/2 and no maximum with the unclipped error.

    Args:
        values: $V_t$, any shape.
        returns: $G_t$, the same shape, taken as constants.
        mask: bool, the same shape.
        old_values: the values at sampling time, needed with `clip_range`.
        clip_range: $\epsilon_V$, or None.
        count: see `masked_mean`.

    Raises:
        ValueError: `clip_range` is given without `old_values`.
    """
    check_shapes(mask, values=values, returns=returns)
    if clip_range is not None:
        if old_values is None:
            raise ValueError("value_loss with clip_range needs old_values")
        check_shapes(mask, old_values=old_values)
        old_values = old_values.detach()
        values = old_values + (values - old_values).clamp(-clip_range, clip_range)
    error = torch.where(mask, returns.detach() - values, torch.zeros_like(values))
    return masked_mean(error.square(), mask, count)


def kl_k1(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
    r"""Return $k_1 = \log \pi(a_t|s_t) - \log \pi_0(a_t|s_t)$ a step, 0 outside the mask.

    Its sum over an episode of $\pi$ is an unbiased sample of $KL(\pi \| \pi_0)$ of the whole text
    (with gamma = 1, the end token included). Use it inside the reward, detached: differentiated
    as a loss, its expected gradient is zero.
    """
    check_shapes(mask, log_probs=log_probs, ref_log_probs=ref_log_probs)
    return torch.where(mask, log_probs - ref_log_probs, torch.zeros_like(log_probs))


def kl_k3(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
    r"""Return $k_3 = e^{-k_1} - 1 + k_1 \ge 0$ a step, 0 outside the mask.

    Unbiased for the step's $KL(\pi \| \pi_0)$ as well and of low variance: for logging. As a loss
    it gives the gradient of another divergence, $KL(\pi_0 \| \pi)$.
    """
    k1 = kl_k1(log_probs, ref_log_probs, mask)
    return torch.expm1(-k1) + k1


def kl_penalised_rewards(
    rewards: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    r"""Return $r_t - \beta\,(\log \pi_{old} - \log \pi_0)(a_t|s_t)$, without gradient.

    Args:
        rewards: `(B, T)` the environment's rewards.
        log_probs: `(B, T)` $\log \pi_{old}$ of the actions.
        ref_log_probs: `(B, T)` $\log \pi_0$ of the actions.
        mask: bool `(B, T)`.
        kl_coef: $\beta$ in units of reward per nat.
    """
    check_shapes(mask, rewards=rewards)
    k1 = kl_k1(log_probs, ref_log_probs, mask)
    return (torch.where(mask, rewards, torch.zeros_like(rewards)) - kl_coef * k1).detach()


def adaptive_kl_coefficient(
    kl_coef: float, kl: float, target: float, episodes: int, horizon: float = 10_000.0
) -> float:
    r"""Return $\beta\,(1 + \frac{n}{H}\,\mathrm{clip}(kl / target - 1, \pm 0.2))$.

    A proportional controller: $\beta$ rises while the measured KL is above its target. The clip
    keeps one roll-out from moving it by more than 20% a horizon.

    Args:
        kl_coef: $\beta$.
        kl: measured KL of an episode, nats.
        target: wanted KL of an episode, nats.
        episodes: $n$, episodes since the last call.
        horizon: $H$, in episodes.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * episodes / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    r"""Return $1 - \mathrm{Var}(G - V) / \mathrm{Var}(G)$; NaN where all returns are equal.

    1 is a perfect value function, 0 a constant one, below 0 worse than that.
    """
    check_shapes(mask, values=values, returns=returns)
    targets = returns[mask]
    if len(targets) == 0 or (variance := targets.var(correction=0)) == 0:
        return float("nan")
    return float(1 - (targets - values[mask]).var(correction=0) / variance)
