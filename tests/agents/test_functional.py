"""Estimators and losses: hand numbers, masks, special cases, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.losses import on_policy as F

MASK = torch.tensor([[True, True, True], [True, True, False]])
NAN = float("nan")


def close(a: Tensor | float, b: Tensor | float | list[object], tol: float = 1e-6) -> None:
    torch.testing.assert_close(
        torch.as_tensor(a), torch.as_tensor(b), rtol=tol, atol=tol, equal_nan=True
    )


def test_gae_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.5, 1.0, NAN]])
    values = torch.tensor([[0.2, 0.4, 0.6], [0.1, 0.3, NAN]])
    advantages, returns = F.gae(rewards, values, MASK, gamma=1.0, lam=0.5)
    # row 0: deltas .2, .2, .4;  row 1: deltas .5 + .3 - .1 = .7, 1 - .3 = .7
    close(advantages, [[0.2 + 0.5 * 0.4, 0.4, 0.4], [0.7 + 0.5 * 0.7, 0.7, 0.0]])
    close(returns, [[0.6, 0.8, 1.0], [1.15, 1.0, 0.0]])


def test_gae_special_cases() -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 3), torch.randn(2, 3)
    gamma = 0.9
    advantages, _ = F.gae(rewards, values, MASK, gamma, lam=0.0)
    for row, length in ((0, 3), (1, 2)):
        for t in range(length):
            after = values[row, t + 1] if t + 1 < length else 0.0
            close(advantages[row, t], rewards[row, t] + gamma * after - values[row, t])
    _, returns = F.gae(rewards, values, MASK, gamma, lam=1.0)
    for row, length in ((0, 3), (1, 2)):
        for t in range(length):
            close(
                returns[row, t], sum(gamma ** (k - t) * rewards[row, k] for k in range(t, length))
            )


def test_gae_bootstraps_only_where_asked() -> None:
    rewards, values = torch.zeros(2, 3), torch.zeros(2, 3)
    advantages, _ = F.gae(rewards, values, MASK, 0.5, 1.0, bootstrap=torch.tensor([0.0, 8.0]))
    close(advantages, [[0.0, 0.0, 0.0], [2.0, 4.0, 0.0]])


@pytest.mark.parametrize("discount", [0.0, 1e-30, 0.01, 0.5, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 63, 64, 65, 3000])
def test_discounted_sums_agree_with_the_recursion(discount: float, steps: int) -> None:
    """In double precision, which 3,000 steps of any discount leave small and finite."""
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(3, steps, generator=generator)
    running, expected = torch.zeros(3, dtype=torch.float64), torch.zeros(3, steps).double()
    for t in range(steps - 1, -1, -1):
        running = x[:, t].double() + discount * running
        expected[:, t] = running
    found = F.discounted_sums(x, discount)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(F.discounted_sums(x.double(), discount), expected)


def test_gae_takes_as_many_operations_as_the_logarithm_of_the_steps() -> None:
    """On a GPU each is a kernel, and T of them would take longer than the sums."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            self.calls += 1
            return func(*args, **(kwargs or {}))

    def calls(steps: int) -> int:
        x, mask = torch.zeros(2, steps), torch.ones(2, steps, dtype=torch.bool)
        with Count() as count:
            F.gae(x, x, mask, bootstrap=torch.zeros(2))
            F.returns_to_go(x, mask, 0.9, torch.zeros(2))
        return count.calls

    assert calls(1024) < 2 * calls(32) < 200


def test_gae_agrees_with_stable_baselines3() -> None:
    import numpy as np
    from gymnasium import spaces
    from stable_baselines3.common.buffers import RolloutBuffer

    torch.manual_seed(1)
    rewards, values = torch.randn(2, 3), torch.randn(2, 3)
    space = spaces.Box(0, 1, (1,))
    buffer = RolloutBuffer(5, space, spaces.Discrete(2), gamma=0.9, gae_lambda=0.8, n_envs=1)
    steps = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]  # two episodes one after the other
    for row, t in steps:
        buffer.add(
            np.zeros((1, 1)), np.zeros(1), rewards[row, t].numpy()[None], np.array([t == 0]),
            values[row, t][None], torch.zeros(1),
        )  # fmt: skip
    buffer.compute_returns_and_advantage(torch.zeros(1), np.array([True]))
    advantages, returns = F.gae(rewards, values, MASK, 0.9, 0.8)
    close(advantages[MASK], torch.from_numpy(buffer.advantages[:, 0]), 1e-5)
    close(returns[MASK], torch.from_numpy(buffer.returns[:, 0]), 1e-5)


def test_clipped_policy_loss_by_hand() -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    mask = torch.ones(4, dtype=torch.bool)
    log_probs = ratio.log().requires_grad_()
    loss = F.clipped_policy_loss(log_probs, torch.zeros(4), advantages, mask, 0.2)
    close(loss, -(1.2 + 0.5 - 1.5 - 0.8) / 4)
    loss.backward()
    # Clipped where moving on would be rewarded further: the first and the last.
    close(log_probs.grad, [0.0, -0.125, 0.375, 0.0])
    close(F.clip_fraction(log_probs, torch.zeros(4), mask, 0.2), 1.0)


def test_policy_loss_starts_as_reinforce() -> None:
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantages = torch.tensor([3.0, -1.0])
    mask = torch.ones(2, dtype=torch.bool)
    F.clipped_policy_loss(log_probs, log_probs.detach(), advantages, mask, 0.2).backward()
    close(log_probs.grad, -advantages / 2)


def test_value_loss_by_hand() -> None:
    values, returns = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    mask = torch.ones(2, dtype=torch.bool)
    close(F.value_loss(values, returns, mask), (1 + 4) / 2)
    old = torch.tensor([0.0, 1.9])
    close(F.value_loss(values, returns, mask, old, 0.5), ((2 - 0.5) ** 2 + 4) / 2)
    with pytest.raises(ValueError, match="old_values"):
        F.value_loss(values, returns, mask, None, 0.5)


def test_kl_estimators() -> None:
    """k1 and k3 both average to the KL under the sampling distribution."""
    p, q = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.4, 0.4, 0.2])
    kl = (p * (p / q).log()).sum()
    mask = torch.ones(3, dtype=torch.bool)
    close((p * F.kl_k1(p.log(), q.log(), mask)).sum(), kl)
    k3 = F.kl_k3(p.log(), q.log(), mask)
    close((p * k3).sum(), kl)
    assert (k3 >= 0).all()
    close(F.kl_k3(torch.tensor([-1.0]), torch.tensor([-2.0]), mask[:1]), [math.exp(-1) - 1 + 1])


def test_kl_estimators_are_no_losses() -> None:
    """Differentiated, k1 has no expected gradient, and k3 has that of KL(q||p), not KL(p||q)."""
    q, mask = torch.tensor([0.4, 0.4, 0.2]), torch.ones(3, dtype=torch.bool)
    scores = torch.tensor([0.3, -0.2, 0.8], requires_grad=True)
    log_p = scores.log_softmax(dim=0)
    p = log_p.detach().exp()  # of the samples, which a loss takes as given

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, scores, retain_graph=True)[0]

    close(gradient((p * F.kl_k1(log_p, q.log(), mask)).sum()), torch.zeros(3))
    other = gradient((q * (q.log() - log_p)).sum())
    close(gradient((p * F.kl_k3(log_p, q.log(), mask)).sum()), other)
    wanted = gradient((log_p.exp() * (log_p - q.log())).sum())
    assert (other - wanted).abs().max() > 0.01
    # ... which the policy gradient with k1 in the reward, detached, does have
    paid = -F.kl_penalised_rewards(torch.zeros(3), p.log(), q.log(), mask, 1.0)
    close(gradient((p * paid * log_p).sum()), wanted)


def test_penalised_rewards_carry_no_gradient() -> None:
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    ref = torch.tensor([[-1.5, -1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    rewards = F.kl_penalised_rewards(torch.tensor([[0.0, 1.0]]), log_probs, ref, mask, 0.1)
    close(rewards, [[-0.05, 1.1]])
    assert not rewards.requires_grad


def test_adaptive_kl_coefficient() -> None:
    assert F.adaptive_kl_coefficient(0.5, 6.0, 6.0, 64) == 0.5
    assert F.adaptive_kl_coefficient(0.5, 60.0, 6.0, 100, 1000) == pytest.approx(0.5 * 1.02)
    assert F.adaptive_kl_coefficient(0.5, 0.0, 6.0, 100, 1000) == pytest.approx(0.5 * 0.98)
    assert F.adaptive_kl_coefficient(0.5, 6.6, 6.0, 100, 1000) == pytest.approx(0.5 * 1.01)


def test_whitening() -> None:
    x = torch.tensor([[1.0, 2.0, 6.0], [3.0, 4.0, NAN]])
    white = F.masked_whiten(x, MASK)
    inside = x[MASK]
    close(white[MASK], (inside - inside.mean()) / (inside.std() + 1e-8))
    close(white[1, 2], 0.0)
    single = torch.tensor([[True, False, False], [False, False, False]])
    close(F.masked_whiten(x, single)[0, 0], 1.0)


def test_explained_variance() -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, NAN]])
    assert F.explained_variance(returns, returns, MASK) == pytest.approx(1.0)
    assert F.explained_variance(torch.zeros(2, 3), returns, MASK) == pytest.approx(0.0)
    assert math.isnan(F.explained_variance(returns, torch.ones(2, 3), MASK))


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "policy": lambda x, y, m: F.clipped_policy_loss(x, y, y - x.detach(), m, 0.2),
    "value": lambda x, y, m: F.value_loss(x, y, m),
    "clipped value": lambda x, y, m: F.value_loss(x, y, m, y / 2, 0.3),
    "k1": lambda x, y, m: F.masked_mean(F.kl_k1(x, y, m), m),
    "k3": lambda x, y, m: F.masked_mean(F.kl_k3(x, y, m), m),
    "mean": lambda x, y, m: F.masked_mean(x * 1.0, m),
    "whiten": lambda x, y, m: F.masked_mean(F.masked_whiten(x, m) * torch.where(m, y, 0.0), m),
    "clip": lambda x, y, m: F.clip_fraction(x, y, m, 0.1) + 0 * F.masked_mean(x, m),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("junk", [0.0, 1e30, math.inf, NAN])
def test_masked_is_the_subset(name: str, junk: float) -> None:
    """A masked loss and its gradient are those of the subset, whatever stands in the padding."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    full = [t.masked_fill(~MASK, junk) for t in (x, y)]
    full[0].requires_grad_()
    loss = LOSSES[name](full[0], full[1], MASK)
    subset = x[MASK].requires_grad_()
    expected = LOSSES[name](subset, y[MASK], torch.ones(5, dtype=torch.bool))
    close(loss, expected)
    loss.backward()
    expected.backward()
    assert full[0].grad is not None and subset.grad is not None
    close(full[0].grad[MASK], subset.grad)
    close(full[0].grad[~MASK], torch.zeros(1))


def test_shapes_are_checked_first() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"values has shape \(2, 2\), the mask \(2, 3\)"):
        F.gae(x, torch.zeros(2, 2), MASK)
    with pytest.raises(ValueError, match="right-padded"):
        F.gae(x, x, MASK.flip(1))
    with pytest.raises(ValueError, match="must be boolean"):
        F.masked_mean(x, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"bootstrap must be \(B,\)"):
        F.gae(x, x, MASK, bootstrap=torch.zeros(3))
    with pytest.raises(ValueError, match="episodes, steps"):
        F.gae(x[0], x[0], MASK[0])
