"""What a policy achieves, and how far it is from the reference and from the optimum: exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.exact.growing import MAX_NODES, enumerate_tree
from text_envs.exact.sequences import log_endings
from text_envs.exact.solve import reference_on, relative_entropy, solve
from text_envs.exact.tree import Tree

__all__ = ["Evaluation", "evaluate"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    r"""Exact expectations over the episodes of a policy $\pi$, examples included; in nats.

    Entropy and divergences are those of the distribution over whole episodes, given the start:
    sums over the tokens of an episode.

    Attributes:
        mean_return: $E_\pi \sum_t \gamma^t r_t$, shaping included.
        mean_length: expected number of actions.
        entropy: $H(\pi)$.
        kl_reference: $KL(\pi || \pi_0)$.
        objective: $J = E_\pi \sum_t \gamma^t (r_t - \beta \log(\pi / \pi_0)(a_t|s_t))$; None
            without beta, as are the following ones, which compare with $p^*$, the optimum of
            that beta and gamma = 1.
        reverse_kl: $KL(\pi || p^*)$.
        forward_kl: $KL(p^* || \pi)$.
        tvd: total variation $\frac{1}{2} \sum_x |\pi(x) - p^*(x)|$.
    """

    mean_return: float
    mean_length: float
    entropy: float
    kl_reference: float
    objective: float | None = None
    reverse_kl: float | None = None
    forward_kl: float | None = None
    tvd: float | None = None


def evaluate(
    env: Any,
    policy: Any,
    *,
    reference: Any = None,
    beta: float | None = None,
    gamma: float = 1.0,
    max_nodes: int = MAX_NODES,
) -> Evaluation:
    r"""Return what a policy achieves in an environment.

    Args:
        env: see `solve`.
        policy: a function of observations, a causal language model, an agent of
            Stable-Baselines3, a `Solution`: anything `text_envs.policies.as_log_probs` takes.
        reference: $\pi_0$, the same kinds; None for uniform.
        beta: also compare with the optimum of this coefficient of the KL penalty.
        gamma: discount of rewards and, within the objective, of the penalty.
        max_nodes: the largest tree to enumerate.

    Raises:
        ValueError: `beta` is not above 0; see also `solve`.
        TypeError: see `solve`.
    """
    if beta is not None and not beta > 0:
        raise ValueError(f"beta must be above 0, or None to leave out the optimum; got {beta!r}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be between 0 and 1, got {gamma!r}")
    tree = enumerate_tree(env, max_nodes=max_nodes)
    log_policy = tree.log_probs(policy)
    log_reference = reference_on(tree, reference)
    reach = np.exp(tree.log_reach(log_policy))
    discount = _discounts(tree, gamma)
    p = np.exp(log_policy)
    rewards = (p * tree.rewards).sum(axis=1)  # (N,)
    kl = _expected(reach, relative_entropy(log_policy, log_reference))
    facts = {
        "mean_return": _expected(reach, discount * rewards),
        "mean_length": float(reach.sum()),
        "entropy": _expected(reach, -relative_entropy(log_policy, np.zeros_like(log_policy))),
        "kl_reference": kl,
    }
    if beta is None:
        return Evaluation(**facts)
    penalty = _expected(reach, discount * relative_entropy(log_policy, log_reference))
    optimum = solve(tree, reference, beta).log_policy
    of_optimum = np.exp(tree.log_reach(optimum))
    difference = np.exp(log_endings(tree, log_policy)) - np.exp(log_endings(tree, optimum))
    return Evaluation(
        **facts,
        objective=facts["mean_return"] - beta * penalty,
        reverse_kl=_expected(reach, relative_entropy(log_policy, optimum)),
        forward_kl=_expected(of_optimum, relative_entropy(optimum, log_policy)),
        tvd=0.5 * float(np.abs(difference).sum()),
    )


def _discounts(tree: Tree, gamma: float) -> Floats:
    """Return gamma to the number of actions before each node, `(N,)`."""
    discounts = np.ones(tree.num_nodes)
    for depth, level in enumerate(tree.levels):
        discounts[level] = gamma**depth
    return discounts


def _expected(reach: Floats, values: Floats) -> float:
    """Return the sum of `values` `(N,)` weighted by `reach`, which may hide infinite values."""
    return float(reach[reach > 0] @ values[reach > 0])
