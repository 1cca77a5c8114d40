"""Matching distributions: every estimator against sums over the fifteen texts of Toy-v0."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from torch import Tensor

from agents.losses import distributional as functional_dpg
from agents.losses import groups as functional_groups
from agents.losses.distributional import (
    DIVERGENCES,
    dpg_weights,
    effective_sample_size,
    f_derivative,
    fit_multipliers,
    kl_to_target,
    log_normaliser,
    total_variation,
)
from agents.losses.groups import group_normalised, leave_one_out
from agents.losses.on_policy import returns_to_go

PROBABILITY = {"e": 0.2, "a": 0.5, "b": 0.3}


def texts() -> list[str]:
    """All texts over {a, b} that end with `e` or after three tokens."""
    finished, open_ = [], [""]
    while open_:
        text = open_.pop()
        if text.endswith("e") or len(text) == 3:
            finished.append(text)
        else:
            open_ += [text + token for token in "eab"]
    return sorted(finished)


TEXTS = texts()
PRIOR = torch.tensor([math.prod(PROBABILITY[c] for c in t) for t in TEXTS]).double()
HAS_AB = torch.tensor([float("ab" in t) for t in TEXTS]).double()
REWARD = HAS_AB + 0.5 * torch.tensor([float(t.endswith("e")) for t in TEXTS]).double()


def target(beta: float) -> tuple[Tensor, Tensor]:
    """Return log P over the fifteen texts and log Z."""
    log_p = PRIOR.log() + REWARD / beta
    return log_p, log_p.logsumexp(0)


def counted(q: Tensor, n: int = 1_000_000) -> Tensor:
    """Return indices of texts in which each text occurs as often as q says."""
    return torch.repeat_interleave(torch.arange(len(q)), (q * n).round().long())


def test_the_instance() -> None:
    assert len(TEXTS) == 15 and float(PRIOR.sum()) == pytest.approx(1.0)
    assert float(target(0.5)[1].exp()) == pytest.approx(3.892913, abs=1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_normaliser_and_divergences_are_exact_in_expectation(beta: float) -> None:
    log_p, log_z = target(beta)
    generator = torch.Generator().manual_seed(0)
    q, pi = (torch.rand(15, generator=generator).double() + 0.2 for _ in range(2))
    q, pi = q / q.sum(), pi / pi.sum()
    i = counted(q)
    p = (log_p - log_z).exp()
    estimated = log_normaliser(log_p[i], q.log()[i])
    assert float(estimated) == pytest.approx(float(log_z), abs=1e-4)
    kl = kl_to_target(log_p[i], q.log()[i], pi.log()[i], log_z)
    assert float(kl) == pytest.approx(float((p * (p / pi).log()).sum()), abs=1e-4)
    tv = total_variation(log_p[i], q.log()[i], pi.log()[i], log_z)
    assert float(tv) == pytest.approx(float(0.5 * (p - pi).abs().sum()), abs=1e-4)


def test_kl_of_the_prior_is_the_golden_number() -> None:
    log_p, log_z = target(0.5)
    i = counted(PRIOR)
    kl = kl_to_target(log_p[i], PRIOR.log()[i], PRIOR.log()[i], log_z)
    assert float(kl) == pytest.approx(0.336082, abs=1e-5)


def test_weights_of_the_prior_as_proposal() -> None:
    log_p, log_z = target(0.5)
    weights = dpg_weights(log_p, PRIOR.log(), PRIOR.log(), log_z, baseline=False)
    assert float(weights.max()) == pytest.approx(5.16, abs=5e-3)
    i = counted(PRIOR)
    share = effective_sample_size((log_p - PRIOR.log())[i])
    assert share == pytest.approx(0.525, abs=5e-4)


def test_groups_have_their_own_normaliser() -> None:
    log_p = torch.tensor([0.0, 2.0, 1.0, 5.0]).log()
    log_q = torch.zeros(4)
    groups = torch.tensor([0, 1, 0, 1])
    z = log_normaliser(log_p, log_q, groups).exp()
    torch.testing.assert_close(z, torch.tensor([0.5, 3.5]).double())
    absent = log_normaliser(log_p[:2], log_q[:2], torch.tensor([0, 2]))
    assert absent.isfinite().tolist() == [False, False, True] and not absent.isnan().any()
    nothing = log_normaliser(torch.tensor([-torch.inf, -torch.inf]), torch.zeros(2))
    assert float(nothing) == -math.inf and effective_sample_size(torch.tensor([-torch.inf])) == 0


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_derivatives(divergence: str) -> None:
    """f' is the derivative of the divergence's generator."""
    generators = {
        "kl": lambda t: -t.log(),
        "reverse_kl": lambda t: t * t.log(),
        "tv": lambda t: 0.5 * (t - 1).abs(),
        "js": lambda t: t * (2 * t / (1 + t)).log() + (2 / (1 + t)).log(),
        "chi2": lambda t: t + 1 / t,
        "reverse_chi2": lambda t: (t - 1).square(),
    }
    t = torch.tensor([0.3, 0.9, 1.7, 4.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(generators[divergence](t).sum(), t)
    torch.testing.assert_close(f_derivative(divergence, t.detach().log()), slope)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("baseline", [False, True])
def test_weights_give_the_gradient_of_the_divergence(divergence: str, baseline: bool) -> None:
    """In expectation over the proposal, whatever proposal covers the target."""
    log_p, log_z = target(0.5)
    generator = torch.Generator().manual_seed(1)
    theta = torch.randn(15, generator=generator, dtype=torch.float64, requires_grad=True)
    q = (torch.rand(15, generator=generator).double() + 0.2).softmax(0)
    log_pi = theta.log_softmax(0)
    p = (log_p - log_z).exp()
    t = log_pi.exp() / p
    value = {
        "kl": (p * -t.log()).sum(),
        "reverse_kl": (log_pi.exp() * t.log()).sum(),
        "tv": 0.5 * (log_pi.exp() - p).abs().sum(),
        "js": (p * (t * (2 * t / (1 + t)).log() + (2 / (1 + t)).log())).sum(),
        "chi2": (p * (1 / t)).sum(),
        "reverse_chi2": (p * (t - 1).square()).sum(),
    }[divergence]
    (wanted,) = torch.autograd.grad(value, theta, retain_graph=True)
    i = counted(q)
    weights = dpg_weights(
        log_p[i], q.log()[i], log_pi[i], log_z, divergence=divergence, baseline=baseline
    )
    (found,) = torch.autograd.grad(-(weights * log_pi[i]).mean(), theta)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_the_baseline_lowers_the_variance_and_keeps_the_mean() -> None:
    log_p, log_z = target(0.5)
    q = PRIOR
    plain, less = (
        dpg_weights(log_p, q.log(), q.log(), log_z, baseline=baseline) for baseline in (False, True)
    )
    score = torch.eye(15).double() - q  # gradient of log pi at the proposal, one row a text
    mean = (q[:, None] * plain[:, None] * score).sum(0)
    torch.testing.assert_close((q[:, None] * less[:, None] * score).sum(0), mean)

    def variance(weights: Tensor) -> float:
        return float((q[:, None] * (weights[:, None] * score - mean).square()).sum())

    assert variance(less) < 0.6 * variance(plain)


def test_targets_that_exclude_texts() -> None:
    """Pointwise constraint "contains ab": KL(p||pi0) = -log .27, and no infinite weight."""
    log_p = PRIOR.log() + HAS_AB.log()
    i = counted(PRIOR)
    log_z = log_normaliser(log_p[i], PRIOR.log()[i])
    assert float(log_z) == pytest.approx(math.log(0.27), abs=1e-5)
    kl = kl_to_target(log_p[i], PRIOR.log()[i], PRIOR.log()[i], log_z)
    assert float(kl) == pytest.approx(1.309333, abs=1e-5)
    for divergence in ("kl", "tv", "js", "chi2"):
        weights = dpg_weights(log_p, PRIOR.log(), PRIOR.log(), log_z, divergence=divergence)
        assert bool(weights.isfinite().all())
    with pytest.raises(ValueError, match=r"9 of 15|\d+ of 15 sampled texts have no support"):
        dpg_weights(log_p, PRIOR.log(), PRIOR.log(), log_z, divergence="reverse_kl")


def test_multipliers_of_one_moment() -> None:
    found = fit_multipliers(HAS_AB[:, None], torch.tensor([0.5]), PRIOR.log())
    assert float(found) == pytest.approx(0.994623, abs=1e-6)
    tilted = (PRIOR.log() + found * HAS_AB).softmax(0)
    assert float((tilted * (tilted / PRIOR).log()).sum()) == pytest.approx(0.118875, abs=1e-6)


def test_multipliers_of_two_moments_through_a_proposal() -> None:
    features = torch.stack([HAS_AB, 10 * torch.tensor([len(t) for t in TEXTS]).double()], dim=1)
    q = torch.full((15,), 1 / 15).double()
    wanted = torch.tensor([0.4, 25.0])
    found = fit_multipliers(features, wanted, PRIOR.log() - q.log())
    tilted = (PRIOR.log() + features @ found).softmax(0)
    torch.testing.assert_close((tilted @ features).float(), wanted, atol=1e-5, rtol=0)


def test_moments_out_of_reach_are_refused_with_numbers() -> None:
    never = torch.zeros(100, 1)
    with pytest.raises(ValueError, match=r"0\.5 is wanted.*between 0 and 0 with mean 0"):
        fit_multipliers(never, torch.tensor([0.5]))
    a = torch.tensor([0.0, 1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="contradict"):
        fit_multipliers(torch.stack([a, a], 1), torch.tensor([0.2, 0.8]), max_steps=500)


@pytest.mark.parametrize("share", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("wanted", [0.5, 0.999])
def test_multipliers_of_rare_features(share: float, wanted: float) -> None:
    """lambda = logit(mu) - logit(E phi), however much the feature's variance grows on the way."""
    phi = (torch.arange(10_000) < 10_000 * share).double()[:, None]
    found = fit_multipliers(phi, torch.tensor([wanted]).double())
    by_hand = math.log(wanted / (1 - wanted)) - math.log(share / (1 - share))
    assert float(found) == pytest.approx(by_hand, abs=1e-4)


def test_multipliers_of_several_starts() -> None:
    """p(x|c) is normalised for each start: the mean over starts of its moments is mu."""
    rates, n = (0.9, 0.1), 1000
    phi = torch.cat([(torch.arange(n) < n * rate).double() for rate in rates])[:, None]
    groups = torch.arange(2).repeat_interleave(n)
    found = float(fit_multipliers(phi, torch.tensor([0.6]), groups=groups))

    def mean(strength: float) -> float:
        tilted = (math.log(rate / (1 - rate)) + strength for rate in rates)
        return sum(1 / (1 + math.exp(-one)) for one in tilted) / 2

    assert mean(found) == pytest.approx(0.6, abs=1e-6)
    together = float(fit_multipliers(phi, torch.tensor([0.6])))
    assert together == pytest.approx(math.log(0.6 / 0.4)) and mean(together) < 0.56
    fixed = torch.tensor([[0.0], [0.0], [1.0], [2.0]])  # the first start has no choice
    with pytest.raises(ValueError, match=r"1\.5 is wanted.*between 0\.5 and 1 with mean 0\.75"):
        fit_multipliers(fixed, torch.tensor([1.5]), groups=torch.arange(4) // 2)


def test_a_constant_in_the_reward_changes_no_divergence() -> None:
    """Even where the samples' own mean of P / q is not Z, as in any roll-out."""
    log_p, log_z = target(0.5)
    few, q = torch.tensor([0, 3, 3, 9]), PRIOR.log()
    plain = kl_to_target(log_p[few], q[few], q[few], log_z)
    shifted = kl_to_target(log_p[few] + 1000, q[few], q[few], log_z + 1000)
    torch.testing.assert_close(shifted, plain, atol=1e-9, rtol=0)


def test_truncated_samples_miss_a_part_of_the_target() -> None:
    """Top-2 of the prior never ends a text early: Z = 2.05 for 3.89, however many samples."""
    log_p, log_z = target(0.5)
    kept = torch.tensor([float("e" not in text) for text in TEXTS]).double()
    q = PRIOR * kept / (PRIOR * kept).sum()
    i = counted(q)
    assert float(log_normaliser(log_p[i], q.log()[i]).exp()) == pytest.approx(2.05, abs=5e-3)
    assert float(log_z.exp()) == pytest.approx(3.89, abs=5e-3)


def test_divergences_too_large_for_a_number_are_refused() -> None:
    log_p, log_z = target(1e-3)
    with pytest.raises(ValueError, match="'reverse_chi2' overflows: log.* nats.*higher beta"):
        dpg_weights(log_p, PRIOR.log(), PRIOR.log(), log_z, divergence="reverse_chi2")
    for divergence in set(DIVERGENCES) - {"reverse_chi2"}:
        weights = dpg_weights(log_p, PRIOR.log(), PRIOR.log(), log_z, divergence=divergence)
        assert bool(weights.isfinite().all())


def test_unknown_divergence() -> None:
    with pytest.raises(ValueError, match="unknown divergence 'hellinger'.*reverse_kl"):
        f_derivative("hellinger", torch.zeros(1))


def test_group_baselines() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    advantages = leave_one_out(rewards)
    torch.testing.assert_close(advantages[0], torch.tensor([1.0 - 4, 2.0 - 3.5, 6.0 - 1.5]))
    assert advantages[1].tolist() == [0, 0, 0]
    assert group_normalised(rewards)[1].tolist() == [0, 0, 0]
    torch.testing.assert_close(
        group_normalised(rewards, divide=False), rewards - rewards.mean(1, keepdim=True)
    )
    with pytest.raises(ValueError, match=r"at least 2 texts, got shape \(4, 1\)"):
        leave_one_out(torch.zeros(4, 1))


@pytest.mark.parametrize("k", [2, 3, 8, 12])
def test_equal_rewards_have_no_advantage_however_they_are_rounded(k: int) -> None:
    for value in torch.linspace(-2, 2, 201).tolist():
        rewards = torch.full((4, k), value)
        assert not group_normalised(rewards).any(), value
        rewards[0, 0] *= 1 + 1e-7  # as two sums of the same terms may differ
        assert group_normalised(rewards).abs().max() < 1e-3, value
    small = torch.tensor([[1e-9, 2e-9, 3e-9]])  # small, and yet not equal
    assert group_normalised(small, eps=0.0)[0].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-6)


def test_returns_to_go_stops_at_the_padding() -> None:
    mask = torch.tensor([[True, True, False]])
    found = returns_to_go(torch.tensor([[1.0, 2.0, 99.0]]), mask, 0.5)
    assert found.tolist() == [[2.0, 2.0, 0.0]]


def test_docstrings() -> None:
    for module in (functional_dpg, functional_groups):
        result = doctest.testmod(module, extraglobs={"torch": torch})
        assert result.attempted and not result.failed
