r"""Matching a distribution over texts: importance weights, divergences and multipliers, pure.

Everything is a logarithm over whole texts, `(B,)` float64: $\log P$ of the unnormalised target,
$\log q$ of the proposal that sampled, $\log \pi$ of the policy. $P = Z p$. A text that the target
excludes has $\log P = -\infty$.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "DIVERGENCES",
    "dpg_weights",
    "effective_sample_size",
    "f_derivative",
    "fit_multipliers",
    "kl_to_target",
    "log_normaliser",
    "moment_range",
    "total_variation",
    "weights_where_known",
]

DIVERGENCES = ("kl", "reverse_kl", "tv", "js", "chi2", "reverse_chi2")
"""KL(p||pi), KL(pi||p), total variation, twice Jensen-Shannon, chi2(p||pi), chi2(pi||p)."""

# Weights above it become infinite gradients in float32, and clipping makes NaN of these.
_LARGEST = 1e30


def log_normaliser(log_p: Tensor, log_q: Tensor, groups: Tensor | None = None) -> Tensor:
    r"""Estimate $\log Z = \log \mathrm{mean}\,(P / q)$ over samples of q.

    Args:
        log_p: `(B,)` $\log P$.
        log_q: `(B,)`.
        groups: `(B,)` int64 numbers 0..G-1 of the starts; each has a Z of its own then.

    Returns:
        a scalar, or `(G,)` with groups; minus infinity where no sample is in the target's support.
    """
    log_w = log_p.double() - log_q.double()
    if groups is None:
        return log_w.logsumexp(dim=0) - math.log(len(log_w))
    same = _members(groups)  # (G, B)
    inside = torch.where(same, log_w, log_w.new_tensor(-torch.inf))
    return inside.logsumexp(dim=1) - same.sum(dim=1).clamp(min=1).log()


def effective_sample_size(log_w: Tensor) -> float:
    r"""Return $(\sum w)^2 / (B \sum w^2)$, the share in (0, 1] of samples that count; 0 if none.

    Args:
        log_w: `(B,)` logarithms of importance weights.

    >>> effective_sample_size(torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]))
    0.5
    """
    log_w = log_w.double()
    if not bool(log_w.isfinite().any()):
        return 0.0
    total = 2 * log_w.logsumexp(dim=0) - (2 * log_w).logsumexp(dim=0)
    return float((total - math.log(len(log_w))).exp())


def f_derivative(divergence: str, log_t: Tensor) -> Tensor:
    r"""Return $f'(t)$ at $t = \pi / p$, so that $\nabla D_f = E_\pi[f'(t) \nabla \log \pi]$.

    | divergence | $f'(t)$ |
    |---|---|
    | `kl`, KL(p||pi) | $-1/t$ |
    | `reverse_kl`, KL(pi||p) | $\log t + 1$ |
    | `tv` | $\frac12 \mathrm{sign}(t - 1)$ |
    | `js`, twice Jensen-Shannon | $\log \frac{2t}{1 + t}$ |
    | `chi2`, chi2(p||pi) | $1 - t^{-2}$ |
    | `reverse_chi2`, chi2(pi||p) | $2(t - 1)$ |

    Args:
        divergence: one of `DIVERGENCES`.
        log_t: `(B,)`; infinite where the target excludes a text.

    Raises:
        ValueError: an unknown divergence.
    """
    if divergence == "kl":
        return -(-log_t).exp()
    if divergence == "reverse_kl":
        return log_t + 1
    if divergence == "tv":
        return 0.5 * torch.sign(log_t)
    if divergence == "js":
        return math.log(2) - torch.nn.functional.softplus(-log_t)
    if divergence == "chi2":
        return 1 - (-2 * log_t).exp()
    if divergence == "reverse_chi2":
        return 2 * torch.expm1(log_t)
    raise ValueError(f"unknown divergence {divergence!r}; accepted: {', '.join(DIVERGENCES)}")


def dpg_weights(
    log_p: Tensor,
    log_q: Tensor,
    log_pi: Tensor,
    log_z: Tensor,
    *,
    divergence: str = "kl",
    baseline: bool = True,
) -> Tensor:
    r"""Return $w_i$ with $\nabla D_f(\pi, p) = -E_q[w_i \nabla \log \pi(x_i)]$, `(B,)`.

    $w = -\frac{\pi}{q} (f'(\pi / p) - b)$. The baseline b is $E_\pi f'$: known for KL(p||pi), where
    it is -1 and $w = \frac{P}{Z q} - \frac{\pi}{q}$, else estimated by the other samples, which
    leaves the gradient unbiased. Without it, KL(p||pi) is plain distributional policy gradient,
    $w = \frac{P}{Z q}$.

    Args:
        log_p: `(B,)` $\log P$.
        log_q: `(B,)`.
        log_pi: `(B,)`, taken as constant.
        log_z: a scalar, or `(B,)` with the Z of each text's start; finite.
        divergence: one of `DIVERGENCES`.
        baseline: subtract b; same expectation, less variance. Needs two samples.

    Raises:
        ValueError: an unknown divergence, one that is infinite because the target excludes texts
            that the policy writes, or one that is too large for a number.
    """
    log_p, log_q, log_pi = log_p.double(), log_q.double(), log_pi.detach().double()
    excluded = log_p == -torch.inf
    if divergence in ("reverse_kl", "reverse_chi2") and bool(excluded.any()):
        raise ValueError(
            f"divergence {divergence!r} from a target that excludes texts is infinite: "
            f"{int(excluded.sum())} of {len(excluded)} sampled texts have no support under it; "
            "accepted for such targets: 'kl', 'tv', 'js', 'chi2'"
        )
    ratio = (log_pi - log_q).exp()  # (B,)
    if divergence == "kl":  # without pi / q twice, which overflows long before their quotient does
        pull = (log_p - log_z - log_q).exp()
        return pull - ratio if baseline else pull
    log_t = log_pi - log_p + log_z
    slope = f_derivative(divergence, log_t)
    if baseline:
        paid = ratio * slope
        slope = slope - (paid.sum() - paid) / max(len(paid) - 1, 1)
    weights = -ratio * slope
    if not bool((weights.abs() < _LARGEST).all()):
        raise ValueError(
            f"divergence {divergence!r} overflows: log(pi / p) of {len(weights)} sampled texts "
            f"lies between {float(log_t.min()):.3g} and {float(log_t.max()):.3g} nats, and a text "
            "is weighed by an exponential of it. Take a softer target (a higher beta), or one of "
            "'kl', 'reverse_kl', 'tv', 'js'"
        )
    return weights


def kl_to_target(log_p: Tensor, log_q: Tensor, log_pi: Tensor, log_z: Tensor) -> Tensor:
    r"""Estimate the KL of the policy from the target, KL(p||pi).

    $KL(p \| \pi) = E_q[\frac{P}{Z q} (\log P - \log Z - \log \pi)]$. With $\log Z$ outside of the
    expectation it is the same, but the error of a roll-out whose own mean of $P / q$ is not Z is
    then multiplied by $\log Z$, which any constant in the reward makes large.

    Args:
        log_p: `(B,)` $\log P$.
        log_q: `(B,)`, of the proposal that sampled.
        log_pi: `(B,)`, of any policy; the proposal itself, for example.
        log_z: a scalar, or `(B,)`.

    Returns:
        a scalar in nats.
    """
    log_p = log_p.double() - log_z  # of the normalised target
    weight = (log_p - log_q.double()).exp()
    gap = torch.where(weight > 0, log_p - log_pi.detach().double(), torch.zeros_like(log_p))
    return (weight * gap).mean()


def total_variation(log_p: Tensor, log_q: Tensor, log_pi: Tensor, log_z: Tensor) -> Tensor:
    r"""Estimate $\frac12 \mathrm{mean}\,|\frac{\pi}{q} - \frac{P}{Z q}|$, a scalar.

    The distance itself is at most 1; the estimate from few samples may exceed it.
    """
    log_q = log_q.double()
    policy = (log_pi.detach().double() - log_q).exp()
    return 0.5 * (policy - (log_p.double() - log_z - log_q).exp()).abs().mean()


def moment_range(features: Tensor, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest means that weights on the samples can give, `(K,)` each.

    Args:
        features: `(B, K)`.
        groups: `(B,)` int64 numbers of the starts, each of which keeps its share of the weight.

    >>> low, high = moment_range(torch.tensor([[0.0], [1.0], [2.0], [6.0]]))
    >>> low.tolist(), high.tolist()
    ([0.0], [6.0])
    >>> low, high = moment_range(torch.tensor([[0.0], [1.0], [2.0], [6.0]]), torch.arange(4) // 2)
    >>> low.tolist(), high.tolist()
    ([1.0], [3.5])
    """
    if groups is None:
        return features.amin(dim=0), features.amax(dim=0)
    same = _members(groups)  # (G, B)
    same = same[same.any(dim=1)]
    share = same.to(features.dtype).mean(dim=1)  # (G,)
    low = torch.where(same[:, :, None], features, torch.inf).amin(dim=1)  # (G, K)
    high = torch.where(same[:, :, None], features, -torch.inf).amax(dim=1)
    return share @ low, share @ high


def fit_multipliers(
    features: Tensor,
    moments: Tensor,
    log_w: Tensor | None = None,
    groups: Tensor | None = None,
    *,
    tolerance: float = 1e-9,
    max_steps: int = 200,
) -> Tensor:
    r"""Return $\lambda$ such that $P = \pi_0 e^{\lambda \cdot \phi}$ has the wanted moments.

    $\lambda \leftarrow \lambda + \eta\,C^{-1}(\mu - \hat E_\lambda \phi)$ with the self-normalised
    estimate $\hat E_\lambda \phi = \sum w \phi / \sum w$, $w = (\pi_0 / q)\,e^{\lambda\cdot\phi}$,
    and $C$ the covariance of $\phi$ under it. These are Newton's steps on the convex
    $\log Z(\lambda) - \lambda \cdot \mu$; $\eta$ is halved from 1 until that falls. A fixed $\eta$
    oscillates where a feature is rare, because its variance grows many times on the way.

    Args:
        features: `(B, K)` $\phi$ of the samples.
        moments: `(K,)` the wanted $\mu$.
        log_w: `(B,)` $\log \pi_0 - \log q$ of the samples; None if $\pi_0$ itself sampled.
        groups: `(B,)` int64 numbers 0..G-1 of the starts; weights are normalised in each then, as
            $p(x|c)$ is, and $\mu$ is the mean over starts.
        tolerance: stop when every moment is this near, in standard deviations of the samples.
        max_steps: give up after so many.

    Raises:
        ValueError: a moment outside of what the samples span, with the numbers that show it, or
            moments that contradict each other.
    """
    phi, mu = features.double(), moments.double()
    low, high = moment_range(phi, groups)
    for k in range(len(mu)):
        if not low[k] < mu[k] < high[k]:
            raise ValueError(
                f"moment {k}: {float(mu[k]):g} is wanted, the {len(phi)} samples have values "
                f"between {float(low[k]):g} and {float(high[k]):g} with mean "
                f"{float(phi[:, k].mean()):g}; a reachable moment lies strictly between"
            )
    base = phi.new_zeros(len(phi)) if log_w is None else log_w.double()
    same = base.new_ones((1, len(base))).bool() if groups is None else _members(groups)  # (G, B)
    share = same.double().mean(dim=1)  # (G,)
    centre, scale = phi.mean(dim=0), phi.std(dim=0)
    phi, mu = (phi - centre) / scale, (mu - centre) / scale

    def tilt(multipliers: Tensor) -> tuple[Tensor, Tensor]:
        """Return log Z - lambda mu, a scalar, and the weights in each group, `(G, B)`."""
        inside = torch.where(same, base + phi @ multipliers, -torch.inf)
        value = share @ inside.logsumexp(dim=1).clamp(min=-1e300) - multipliers @ mu
        return value, inside.softmax(dim=1).nan_to_num(0.0)

    multipliers = torch.zeros_like(mu)
    value, weights = tilt(multipliers)
    for _ in range(max_steps):
        means = weights @ phi  # (G, K)
        gap = mu - share @ means
        if bool((gap.abs() < tolerance).all()):
            return multipliers / scale
        second = phi.T @ ((share @ weights)[:, None] * phi)
        covariance = second - means.T @ (share[:, None] * means)
        ridge = 1e-10 * torch.eye(len(mu), dtype=mu.dtype, device=mu.device)
        step = torch.linalg.solve(covariance + ridge, gap)
        near = bool((gap.abs() < 1e-6).all())  # where rounding hides whether the value falls
        rate = 1.0
        while True:
            tried = multipliers + rate * step
            tried_value, tried_weights = tilt(tried)
            if near or rate < 1e-12 or tried_value <= value - 1e-4 * rate * gap @ step:
                break
            rate /= 2
        multipliers, value, weights = tried, tried_value, tried_weights
    raise ValueError(
        f"no multipliers found in {max_steps} steps: the moments {moments.tolist()} are missed by "
        f"{(gap * scale).tolist()}; they contradict each other, or lie at the edge of the samples"
    )


def _members(groups: Tensor) -> Tensor:
    """Return which samples are of which group, bool `(G, B)`."""
    return groups == torch.arange(int(groups.max()) + 1, device=groups.device)[:, None]


def weights_where_known(
    log_p: Tensor, log_q: Tensor, log_z: Tensor, log_pi: Tensor, **kwargs: Any
) -> Tensor:
    """Return `dpg_weights` `(B,)` of the texts whose normaliser is known, and 0 of the others.

    A start of whose texts none is in the support says nothing about its normaliser.

    Args:
        log_p: `(B,)`.
        log_q: `(B,)`.
        log_z: `(B,)`; infinite where it is not known.
        log_pi: `(B,)`.
        **kwargs: `divergence` and `baseline`.
    """
    known = log_z.isfinite()
    weights = torch.zeros_like(log_pi)
    if bool(known.any()):
        parts = (x[known] for x in (log_p, log_q, log_pi, log_z))
        weights[known] = dpg_weights(*parts, **kwargs)
    return weights.detach()
