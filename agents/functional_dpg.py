r"""Matching a distribution over texts: importance weights, divergences and multipliers, pure.

Everything is a logarithm over whole texts, `(B,)` float64: $\log P$ of the unnormalised target,
$\log q$ of the proposal that sampled, $\log \pi$ of the policy. $P = Z p$. A text that the target
excludes has $\log P = -\infty$.
"""

from __future__ import annotations

import math

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
    "total_variation",
]

DIVERGENCES = ("kl", "reverse_kl", "tv", "js", "chi2", "reverse_chi2")
"""KL(p||pi), KL(pi||p), total variation, twice Jensen-Shannon, chi2(p||pi), chi2(pi||p)."""


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
    count = int(groups.max()) + 1
    same = groups == torch.arange(count, device=groups.device)[:, None]  # (G, B)
    inside = torch.where(same, log_w, log_w.new_tensor(-torch.inf))
    return inside.logsumexp(dim=1) - same.sum(dim=1).log()


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
        log_z: a scalar, or `(B,)` with the Z of each text's start.
        divergence: one of `DIVERGENCES`.
        baseline: subtract b; same expectation, less variance. Needs two samples.

    Raises:
        ValueError: an unknown divergence, or one that is infinite because the target excludes
            texts that the policy writes.
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
    slope = f_derivative(divergence, log_pi - log_p + log_z)
    if baseline:
        paid = ratio * slope
        slope = slope - (paid.sum() - paid) / max(len(paid) - 1, 1)
    return -ratio * slope


def kl_to_target(log_p: Tensor, log_q: Tensor, log_pi: Tensor, log_z: Tensor) -> Tensor:
    r"""Estimate the KL of the policy from the target, KL(p||pi).

    $KL(p \| \pi) = -\log Z + \frac{1}{Z} E_q[\frac{P}{q} (\log P - \log \pi)]$.

    Args:
        log_p: `(B,)` $\log P$.
        log_q: `(B,)`, of the proposal that sampled.
        log_pi: `(B,)`, of any policy; the proposal itself, for example.
        log_z: a scalar, or `(B,)`.

    Returns:
        a scalar in nats.
    """
    log_p, log_pi = log_p.double(), log_pi.detach().double()
    weight = (log_p - log_z - log_q.double()).exp()
    gap = torch.where(weight > 0, log_p - log_pi, torch.zeros_like(log_p))
    return (weight * gap).mean() - torch.as_tensor(log_z).mean()


def total_variation(log_p: Tensor, log_q: Tensor, log_pi: Tensor, log_z: Tensor) -> Tensor:
    r"""Estimate $\frac12 \mathrm{mean}\,|\frac{\pi}{q} - \frac{P}{Z q}|$, a scalar in [0, 1]."""
    log_q = log_q.double()
    policy = (log_pi.detach().double() - log_q).exp()
    return 0.5 * (policy - (log_p.double() - log_z - log_q).exp()).abs().mean()


def fit_multipliers(
    features: Tensor,
    moments: Tensor,
    log_w: Tensor | None = None,
    *,
    learning_rate: float = 0.5,
    tolerance: float = 1e-9,
    max_steps: int = 20_000,
) -> Tensor:
    r"""Return $\lambda$ such that $P = \pi_0 e^{\lambda \cdot \phi}$ has the wanted moments.

    $\lambda \leftarrow \lambda + \eta\,(\mu - \hat E_\lambda \phi)$ with the self-normalised
    estimate $\hat E_\lambda \phi = \sum w \phi / \sum w$, $w = (\pi_0 / q)\,e^{\lambda\cdot\phi}$.
    Features are scaled to unit variance first, so that one step size fits all of them.

    Args:
        features: `(B, K)` $\phi$ of the samples.
        moments: `(K,)` the wanted $\mu$.
        log_w: `(B,)` $\log \pi_0 - \log q$ of the samples; None if $\pi_0$ itself sampled.
        learning_rate: $\eta$.
        tolerance: stop when every scaled moment is this near.
        max_steps: give up after so many.

    Raises:
        ValueError: a moment outside of what the samples span, with the numbers that show it, or
            moments that contradict each other.
    """
    phi, mu = features.double(), moments.double()
    low, high = phi.min(dim=0).values, phi.max(dim=0).values
    for k in range(len(mu)):
        if not low[k] < mu[k] < high[k]:
            raise ValueError(
                f"moment {k}: {float(mu[k]):g} is wanted, the {len(phi)} samples have values "
                f"between {float(low[k]):g} and {float(high[k]):g} with mean "
                f"{float(phi[:, k].mean()):g}; a reachable moment lies strictly between"
            )
    base = torch.zeros(len(phi), dtype=torch.float64) if log_w is None else log_w.double()
    scale = phi.std(dim=0)
    phi, mu = phi / scale, mu / scale
    multipliers = torch.zeros_like(mu)
    for _ in range(max_steps):
        weights = (base + phi @ multipliers).softmax(dim=0)
        gap = mu - weights @ phi
        if bool((gap.abs() < tolerance).all()):
            return multipliers / scale
        multipliers = multipliers + learning_rate * gap
    raise ValueError(
        f"no multipliers found in {max_steps} steps: the moments {moments.tolist()} are missed by "
        f"{(gap * scale).tolist()}; they contradict each other, or lie at the edge of the samples"
    )
