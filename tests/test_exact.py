"""The reference instance: every number against hand calculation and against enumeration."""

from __future__ import annotations

import doctest
import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import text_envs.exact
from text_envs import exact
from text_envs.tasks.toy import Toy

TOY = "text_envs/Toy-v0"
A, B, EOS = 0, 1, 2
P0 = np.array([0.5, 0.3, 0.2])  # of a, b, end


def reference(tokens: Any) -> Any:
    return np.tile(np.log(P0), (len(tokens), 1))


TREE = exact.enumerate_tree(TOY)


def texts() -> list[tuple[int, ...]]:
    """The fifteen texts, by hand: end or three tokens."""
    found = []
    for length in (1, 2, 3):
        for words in itertools.product((A, B), repeat=length - 1):
            found += [(*words, EOS)] if length < 3 else [(*words, last) for last in (A, B, EOS)]
    return found


def reward(text: tuple[int, ...]) -> float:
    contains = any(pair == (A, B) for pair in itertools.pairwise(text))
    return contains + 0.5 * (text[-1] == EOS)


TEXTS = texts()
REWARDS = np.array([reward(text) for text in TEXTS])
LOG_P0 = np.array([np.log(P0[list(text)]).sum() for text in TEXTS])


def posterior(beta: float) -> Any:
    unnormalised = np.exp(LOG_P0 + REWARDS / beta)
    return unnormalised / unnormalised.sum()


def random_policy(seed: int, scale: float = 1.0) -> Any:
    """A policy that is different at every node."""
    scores = scale * np.random.default_rng(seed).normal(size=(7, 3))
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return TREE.as_policy(log_p, "random")


def text_probabilities(policy: Any) -> Any:
    """Probabilities of the fifteen texts from the conditionals, one text at a time."""
    found = []
    for text in TEXTS:
        observation, total = np.array([[5, 3, 3, 3]]), 0.0
        observation[0, 0] = Toy().prompts(np.array([0]))[0, 0]
        for column, action in enumerate(text, start=1):
            total += policy(observation)[0, action]
            if column < 4:
                observation = observation.copy()
                observation[0, column] = action
        found.append(total)
    return np.exp(found)


def order(sequences: exact.Sequences) -> Any:
    """For each of the fifteen texts its place among the sequences."""
    rows = {tuple(row[row != 3].tolist()): i for i, row in enumerate(sequences.tokens[:, 1:])}
    return [rows[text] for text in TEXTS]


def test_doctests() -> None:
    assert doctest.testmod(text_envs.exact).failed == 0


def test_instance() -> None:
    assert len(TEXTS) == TREE.num_sequences == 15
    assert TREE.num_nodes == 7
    found = exact.evaluate(TREE, reference)
    assert found.mean_return == pytest.approx(0.514, abs=1e-12)
    assert found.entropy == pytest.approx(2.512353, abs=5e-7)
    contains = np.exp(LOG_P0)[np.isin(REWARDS, [1.0, 1.5])].sum()
    assert contains == pytest.approx(0.27, abs=1e-12)


@pytest.mark.parametrize(
    ("beta", "z", "value", "mean", "entropy", "kl", "best"),
    [
        (1.0, 1.813953, 0.595508, 0.678971, 2.510777, 0.083463, 0.074120),
        (0.5, 3.892913, 0.679579, 0.847620, 2.383438, 0.336082, 0.154785),
        (0.1, 103425.118, 1.154660, 1.473782, 0.277491, 3.191221, 0.948227),
    ],
)
def test_table(
    beta: float, z: float, value: float, mean: float, entropy: float, kl: float, best: float
) -> None:
    optimum = exact.solve(TOY, reference, beta)
    found = exact.evaluate(TREE, optimum, reference=reference, beta=beta)
    sequences = optimum.sequences()
    assert np.exp(optimum.log_z) == pytest.approx([z], abs=5e-4 if z > 9 else 5e-7)
    assert optimum.value == pytest.approx(value, abs=6e-7)
    assert found.objective == pytest.approx(optimum.value, abs=1e-12)
    assert found.mean_return == pytest.approx(mean, abs=5e-7)
    assert found.entropy == pytest.approx(entropy, abs=5e-7)
    assert found.kl_reference == pytest.approx(kl, abs=5e-7)
    assert sequences.texts[sequences.rewards.argmax()] == "a b"
    assert np.exp(sequences.log_posterior[sequences.rewards.argmax()]) == pytest.approx(
        best, abs=5e-7
    )


def test_root_policy() -> None:
    optimum = exact.solve(TOY, reference, 0.5)
    start = gym.make(TOY).reset()[0]
    root = np.exp(optimum.policy(start[None])[0])
    np.testing.assert_allclose(root[[EOS, A, B]], [0.139653, 0.661760, 0.198587], atol=5e-7)
    assert optimum.v(start) == pytest.approx(optimum.value, abs=1e-15)
    backup = 0.5 * np.log(P0 @ np.exp(optimum.q(start) / 0.5))
    assert backup == pytest.approx(optimum.value, abs=1e-12)
    np.testing.assert_array_equal(optimum.v(start[None]), [optimum.v(start)])
    np.testing.assert_array_equal(optimum.q(start[None]), [optimum.q(start)])


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.1])
def test_product_of_conditionals_is_the_posterior(beta: float) -> None:
    optimum = exact.solve(TOY, reference, beta)
    np.testing.assert_allclose(text_probabilities(optimum.policy), posterior(beta), atol=1e-12)
    sequences = optimum.sequences()
    at = order(sequences)
    np.testing.assert_allclose(np.exp(sequences.log_posterior[at]), posterior(beta), atol=1e-12)
    np.testing.assert_allclose(sequences.log_reference[at], LOG_P0, atol=1e-12)
    np.testing.assert_array_equal(sequences.rewards[at], REWARDS)
    by_rule = sequences.log_reference + sequences.rewards / beta - optimum.log_z
    np.testing.assert_allclose(sequences.log_posterior, by_rule, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), beta=st.floats(0.05, 5.0), scale=st.floats(0.0, 4.0))
def test_identities_for_random_policies(seed: int, beta: float, scale: float) -> None:
    policy = random_policy(seed, scale)
    found = exact.evaluate(TREE, policy, reference=reference, beta=beta)
    optimum = exact.solve(TREE, reference, beta)
    p, target = text_probabilities(policy), posterior(beta)
    kl = p @ (np.log(p) - LOG_P0)  # of whole texts
    assert found.kl_reference == pytest.approx(kl, abs=1e-12)
    assert found.reverse_kl == pytest.approx(p @ np.log(p / target), abs=1e-11)
    assert found.forward_kl == pytest.approx(target @ np.log(target / p), abs=1e-11)
    assert found.tvd == pytest.approx(0.5 * np.abs(p - target).sum(), abs=1e-12)
    assert found.entropy == pytest.approx(-p @ np.log(p), abs=1e-12)
    assert found.mean_return == pytest.approx(p @ REWARDS, abs=1e-12)
    assert found.mean_length == pytest.approx(p @ [len(text) for text in TEXTS], abs=1e-12)
    assert found.objective == pytest.approx(p @ REWARDS - beta * kl, abs=1e-11)
    # J(pi) = beta log Z - beta KL(pi || p*), and the values of pi begin with J(pi)
    bound = optimum.value - beta * (found.reverse_kl or 0.0)
    assert found.objective == pytest.approx(bound, abs=1e-11)
    values = exact.q_of(TREE, policy, reference, beta)
    assert values.value == pytest.approx(found.objective, abs=1e-12)


def test_without_penalty_the_best_text_wins() -> None:
    optimum = exact.solve(TOY)
    found = exact.evaluate(TOY, optimum)
    assert optimum.value == found.mean_return == 1.5
    assert found.entropy == 0.0
    assert text_probabilities(optimum.policy)[TEXTS.index((A, B, EOS))] == 1.0
    assert found.objective is found.reverse_kl is found.forward_kl is found.tvd is None


def test_ties_are_shared() -> None:
    env = gym.make(TOY, reward=lambda episodes: np.zeros(len(episodes)))
    found = exact.evaluate(env, exact.solve(env))
    assert found.kl_reference == 0.0  # to the uniform policy


def test_small_penalties_approach_the_optimum() -> None:
    values = [exact.solve(TREE, reference, beta).value for beta in (1e-1, 1e-2, 1e-3)]
    assert values == sorted(values)
    # beta log Z = max r + beta log pi0(x*) + ..., with pi0(x*) = .03
    assert values[-1] == pytest.approx(1.5 + 1e-3 * math.log(0.03), abs=1e-12)


@pytest.mark.parametrize(("gamma", "kl"), [(0.99, 9.5e-5), (0.9, 9.2e-3)])
def test_discounting_moves_the_optimum(gamma: float, kl: float) -> None:
    discounted = exact.solve(TREE, reference, 0.5, gamma=gamma)
    found = exact.evaluate(TREE, discounted, reference=reference, beta=0.5)
    assert found.reverse_kl == pytest.approx(kl, rel=5e-3)
    own = exact.evaluate(TREE, discounted, reference=reference, beta=0.5, gamma=gamma)
    assert own.objective == pytest.approx(discounted.value, abs=1e-12)


def test_pointwise_constraint() -> None:
    """P(x) = pi0(x) 1[x contains "a b"]: the posterior of log b as the reward."""
    sequences = exact.solve(TREE, reference, 1.0).sequences()
    inside = np.isin(sequences.rewards, [1.0, 1.5])
    log_mass = np.log(np.exp(sequences.log_reference[inside]).sum())
    assert -log_mass == pytest.approx(1.309333, abs=5e-7) == -math.log(0.27)
    # ... which a large reward approaches
    env = gym.make(TOY, reward=lambda episodes: 40.0 * contains_ab(episodes))
    found = exact.evaluate(env, exact.solve(env, reference, 1.0), reference=reference)
    assert found.kl_reference == pytest.approx(-math.log(0.27), abs=1e-12)


def contains_ab(episodes: Any) -> Any:
    words = episodes.response
    return ((words[:, :-1] == A) & (words[:, 1:] == B)).any(axis=1).astype(float)


def test_moment_constraint() -> None:
    """E phi = 1/2 at lambda = logit(mu) - logit(E_pi0 phi), the posterior with beta = 1/lambda."""
    strength = math.log(0.5 / 0.5) - math.log(0.27 / 0.73)
    assert strength == pytest.approx(0.994623, abs=5e-7)
    env = gym.make(TOY, reward=contains_ab)
    found = exact.evaluate(env, exact.solve(env, reference, 1 / strength), reference=reference)
    assert found.mean_return == pytest.approx(0.5, abs=1e-12)
    assert found.kl_reference == pytest.approx(0.118875, abs=5e-7)


def test_importance_weights_of_the_reference() -> None:
    sequences = exact.solve(TREE, reference, 0.5).sequences()
    weights = np.exp(sequences.log_posterior - sequences.log_reference)
    proposal = np.exp(sequences.log_reference)
    assert weights.max() == pytest.approx(5.16, abs=5e-3)
    assert (proposal @ weights) ** 2 / (proposal @ weights**2) == pytest.approx(0.525, abs=5e-4)


def test_one_step_improvement_over_a_guide() -> None:
    """Soft AggreVaTe: pi0 exp(Q^g / beta) improves on the guide and is not the posterior."""

    def guide(tokens: Any) -> Any:
        return np.tile(np.log([0.3, 0.4, 0.3]), (len(tokens), 1))

    values = exact.q_of(TOY, guide, reference, 0.5)
    after = exact.evaluate(TREE, values.improved, reference=reference, beta=0.5)
    assert values.value == pytest.approx(0.4411, abs=5e-5)
    assert after.objective == pytest.approx(0.6763, abs=5e-5)
    assert exact.solve(TREE, reference, 0.5).value == pytest.approx(0.6796, abs=5e-5)
    # without a penalty: the best actions if the guide goes on
    greedy = exact.q_of(TOY, guide)
    assert exact.evaluate(TREE, greedy.improved).entropy == 0.0
    assert exact.evaluate(TREE, greedy.improved).mean_return >= greedy.value


def test_policies_that_leave_words_out() -> None:
    """Without the end every text has three tokens, each log(1 / .8) away from the reference."""
    with np.errstate(divide="ignore"):
        endless = np.log(np.where(P0 < 0.25, 0.0, P0) / 0.8)
    policy = TREE.as_policy(np.tile(endless, (7, 1)), "endless")
    found = exact.evaluate(TREE, policy, reference=reference, beta=0.5)
    assert found.mean_length == 3.0
    assert found.kl_reference == pytest.approx(-3 * math.log(0.8), abs=1e-12)
    assert found.forward_kl == math.inf  # it never writes what the optimum writes
    back = exact.evaluate(TREE, reference, reference=policy)
    assert back.kl_reference == math.inf


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_coefficients_out_of_range(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be 0 .* or a positive number, got"):
        exact.solve(TREE, reference, beta)
    with pytest.raises(ValueError, match="beta must be 0"):
        exact.q_of(TREE, reference, reference, beta)


def test_posterior_needs_a_penalty() -> None:
    optimum = exact.solve(TREE)
    with pytest.raises(ValueError, match="needs beta above 0, got beta=0"):
        _ = optimum.log_z
    with pytest.raises(ValueError, match="needs beta above 0, got beta=0"):
        optimum.sequences()
    for beta in (0.0, -1.0):
        with pytest.raises(ValueError, match="beta must be above 0, or None"):
            exact.evaluate(TREE, reference, beta=beta)


def test_discount_out_of_range() -> None:
    for call in (
        lambda: exact.solve(TREE, gamma=1.1),
        lambda: exact.evaluate(TREE, reference, gamma=-0.1),
    ):
        with pytest.raises(ValueError, match="gamma must be between 0 and 1"):
            call()


def test_only_states_have_values() -> None:
    optimum = exact.solve(TREE)
    finished = np.array([[4, EOS, 3, 3]])
    finished[0, 0] = TREE.observations[0, 0]
    with pytest.raises(ValueError, match=r"observation 0 is no state.*tokens \[\d, 2\]"):
        optimum.v(finished)
    with pytest.raises(ValueError, match=r"shape \(B, 4\), got \(1, 3\)"):
        optimum.q(np.zeros(3))


def test_what_is_shown() -> None:
    assert repr(TREE) == "Tree(Toy, 7 states, 15 texts)"
    optimum = exact.solve(TREE, reference, 0.5)
    assert repr(optimum.sequences()) == "Sequences(15 texts of Tree(Toy, 7 states, 15 texts))"
    assert len(optimum.sequences()) == 15
    assert "PolicyValues(value=" in repr(exact.q_of(TREE, reference))
