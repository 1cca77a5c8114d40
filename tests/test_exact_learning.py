"""Exact gradients on the reference instance: what each objective converges to, and how fast."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_envs import exact

P0 = np.array([0.5, 0.3, 0.2])  # of a, b, end
BETA = 0.5
TREE = exact.enumerate_tree("text_envs/Toy-v0")


def reference(tokens: Any) -> Any:
    return np.tile(np.log(P0), (len(tokens), 1))


def log_softmax(scores: Any) -> Any:
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def ascend_return(tree: exact.Tree, steps: int, beta: float = 0.0) -> Any:
    """Softmax policy gradient: reach(s) pi(a|s) (Q - beta log(pi / pi0) - V)(s, a), rate 1."""
    scores = np.tile(np.log(P0), (tree.num_nodes, 1))
    log_p0 = scores.copy()
    for _ in range(steps):
        log_p = log_softmax(scores)
        p, penalty = np.exp(log_p), beta * (log_p - log_p0)

        def value(q: Any, level: slice, p: Any = p, penalty: Any = penalty) -> Any:
            return (p[level] * (q - penalty[level])).sum(axis=1)

        v, q = tree.backward(value, 1.0)
        reach = np.exp(tree.log_reach(log_p))
        scores = scores + reach[:, None] * p * (q - penalty - v[:, None])
    return tree.as_policy(log_softmax(scores), "ascended")


def ascend_likelihood(steps: int) -> Any:
    """DPG: the gradient of -KL(p* || pi) is reach*(s) (p*(a|s) - pi(a|s)), rate 1."""
    target = exact.solve(TREE, reference, BETA).log_policy
    reach = np.exp(TREE.log_reach(target))[:, None]
    scores = np.tile(np.log(P0), (TREE.num_nodes, 1))
    for _ in range(steps):
        scores = scores + reach * (np.exp(target) - np.exp(log_softmax(scores)))
    return TREE.as_policy(log_softmax(scores), "fitted")


@pytest.mark.parametrize(
    ("steps", "mean", "entropy"), [(200, 1.4885, 0.1154), (20_000, 1.4999, 0.0017)]
)
def test_reinforcement_learning_collapses(steps: int, mean: float, entropy: float) -> None:
    found = exact.evaluate(TREE, ascend_return(TREE, steps), reference=reference)
    assert found.mean_return == pytest.approx(mean, abs=5e-5)
    assert found.entropy == pytest.approx(entropy, abs=5e-5)
    if steps == 20_000:  # KL(pi || pi0) goes to -log pi0(x*) = log(1 / .03)
        assert found.kl_reference == pytest.approx(3.505, abs=5e-4)
        assert found.kl_reference == pytest.approx(math.log(1 / 0.03), abs=2e-3)


def test_with_ties_nothing_collapses() -> None:
    def contains_ab(episodes: Any) -> Any:
        words = episodes.response
        return ((words[:, :-1] == 0) & (words[:, 1:] == 1)).any(axis=1).astype(float)

    tree = exact.enumerate_tree(gym.make("text_envs/Toy-v0", reward=contains_ab))
    found = exact.evaluate(tree, ascend_return(tree, 20_000))
    assert found.mean_return == pytest.approx(0.99994, abs=5e-6)
    assert found.entropy == pytest.approx(1.03, abs=5e-3)


@pytest.mark.parametrize(("steps", "kl"), [(0, 0.331), (100, 1.9e-3), (1000, 1.9e-7)])
def test_penalised_learning_finds_the_posterior(steps: int, kl: float) -> None:
    found = exact.evaluate(TREE, ascend_return(TREE, steps, BETA), reference=reference, beta=BETA)
    assert found.reverse_kl == pytest.approx(kl, rel=0.03)


@pytest.mark.parametrize(("steps", "kl"), [(0, 0.336), (100, 5.1e-4), (1000, 5e-11)])
def test_distributional_control_finds_the_posterior(steps: int, kl: float) -> None:
    found = exact.evaluate(TREE, ascend_likelihood(steps), reference=reference, beta=BETA)
    assert found.forward_kl == pytest.approx(kl, rel=0.05)
