"""Targets and losses of offline value learning: hand numbers, masks, gradients, special cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.losses import offline as F

MASK = torch.tensor([[True, True, True], [True, True, False]])
NAN = float("nan")


def close(a: Tensor | float, b: Tensor | float | list[object], tol: float = 1e-6) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tol, atol=tol)


def test_targets_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 5.0], [0.0, 2.0, NAN]])
    next_values = torch.tensor([[10.0, 20.0, NAN], [30.0, 40.0, NAN]])
    terminal = torch.tensor([[False, False, True], [False, False, False]])  # row 1 was cut
    targets = F.td_targets(rewards, next_values, terminal, MASK, 0.5)
    close(targets, [[6.0, 10.0, 5.0], [15.0, 22.0, 0.0]])


def test_terminal_flag_is_that_of_the_next_state() -> None:
    """An episode of one action: its target is its reward, whatever V says about the end."""
    one = torch.ones(1, 1, dtype=torch.bool)
    ended = F.td_targets(torch.tensor([[3.0]]), torch.tensor([[7.0]]), one, one, 1.0)
    cut = F.td_targets(torch.tensor([[3.0]]), torch.tensor([[7.0]]), ~one, one, 1.0)
    close(ended, [[3.0]])
    close(cut, [[10.0]])


def test_returns_to_go_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 4.0], [0.0, 2.0, NAN]])
    close(F.returns_to_go(rewards, MASK, 0.5), [[2.0, 2.0, 4.0], [1.0, 2.0, 0.0]])
    bootstrapped = F.returns_to_go(rewards, MASK, 0.5, torch.tensor([0.0, 8.0]))
    close(bootstrapped, [[2.0, 2.0, 4.0], [3.0, 6.0, 0.0]])


def test_q_loss_sums_over_heads_without_half() -> None:
    q = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, NAN]], [[0.0, 0.0, 0.0], [0.0, 0.0, NAN]]])
    targets = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, NAN]])
    close(F.q_loss(q, targets, MASK), (0 + 1 + 4 + 9 + 16) / 5 + 5 / 5)


def test_expectile_loss_by_hand() -> None:
    values = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, NAN]])
    targets = torch.tensor([[1.0, -1.0, 2.0], [0.0, 0.0, NAN]])
    # too low by 1 and 2 costs tau, too high by 1 and 2 costs 1 - tau
    loss = F.expectile_loss(values, targets, MASK, 0.9)
    close(loss, (0.9 * 1 + 0.1 * 1 + 0.9 * 4 + 0.1 * 4) / 5)
    assert float(F.expectile_loss(torch.zeros(1), torch.ones(1), torch.ones(1).bool(), 0.9)) > (
        float(F.expectile_loss(torch.ones(1), torch.zeros(1), torch.ones(1).bool(), 0.9))
    )


def test_expectile_of_one_half_is_half_the_mean_squared_error() -> None:
    torch.manual_seed(0)
    values, targets = torch.randn(2, 3), torch.randn(2, 3)
    half = F.expectile_loss(values, targets, MASK, 0.5)
    close(half, 0.5 * (values - targets)[MASK].square().mean())


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(0.5, -5.441), (0.7, -4.933), (0.8, -4.510), (0.85, -4.219), (0.9, -3.845), (0.99, -2.808)],
)
def test_expectiles_of_the_adversarial_wordle_returns(tau: float, expected: float) -> None:
    """The minimiser of the loss on {-2.647 with 1/6, -6 with 5/6}."""
    targets = torch.tensor([-2.647] + [-6.0] * 5, dtype=torch.float64)
    value = torch.tensor(-4.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([value], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.expectile_loss(value.expand(6), targets, torch.ones(6).bool(), tau)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(expected, abs=6e-4)


def test_cql_loss_is_the_cross_entropy_of_both_heads() -> None:
    torch.manual_seed(0)
    scores, actions = torch.randn(2, 5, 7), torch.randint(0, 7, (5,))
    log_probs = scores.log_softmax(-1).gather(2, actions.expand(2, 5)[..., None]).squeeze(-1)
    wanted = sum(torch.nn.functional.cross_entropy(head, actions) for head in scores)
    close(F.cql_loss(log_probs), wanted)
    assert float(F.cql_loss(torch.zeros(2, 0))) == 0.0


def test_awac_by_hand() -> None:
    advantages = torch.tensor([[math.log(2.0), 0.0, math.log(8.0)], [-math.log(2.0), 0.0, NAN]])
    close(F.awac_weights(advantages, MASK, 1.0), [[2.0, 1.0, 8.0], [0.5, 1.0, 0.0]], 1e-5)
    close(F.awac_weights(advantages, MASK, 2.0, 5.0), [[4.0, 1.0, 5.0], [0.25, 1.0, 0.0]], 1e-5)
    assert (F.awac_weights(advantages, MASK, 0.0)[MASK] == 1).all()
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, NAN]])
    weights = F.awac_weights(advantages, MASK, 1.0)
    close(F.awac_loss(log_probs, weights, MASK), (2 + 2 + 24 + 2 + 5) / 5, 1e-5)


def test_empty_masks_cost_nothing() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    x = torch.full((2, 3), NAN)
    for loss in (
        F.q_loss(torch.stack([x, x]), x, nothing),
        F.expectile_loss(x, x, nothing, 0.7),
        F.awac_loss(x, F.awac_weights(x, nothing, 1.0), nothing),
    ):
        assert float(loss) == 0.0


def test_gradients_are_those_of_the_real_actions_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3)
    x[~MASK] = NAN
    targets = torch.randn(2, 3).masked_fill(~MASK, NAN)
    losses = {
        "q": lambda v: F.q_loss(torch.stack([v, 2 * v]), targets, MASK),
        "v": lambda v: F.expectile_loss(v, targets, MASK, 0.8),
        "awac": lambda v: F.awac_loss(v, F.awac_weights(targets, MASK, 1.0), MASK),
    }
    for loss in losses.values():
        v = x.clone().requires_grad_()
        loss(v).backward()
        assert v.grad is not None and torch.isfinite(v.grad).all()
        assert (v.grad[~MASK] == 0).all() and (v.grad[MASK] != 0).all()


def test_targets_and_weights_take_no_gradient() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    never = torch.zeros_like(MASK)
    assert not F.td_targets(x, x, never, MASK, 0.9).requires_grad
    assert not F.returns_to_go(x, MASK, 0.9).requires_grad
    assert not F.awac_weights(x, MASK, 1.0).requires_grad
    fixed = torch.zeros(2, 3, requires_grad=True)
    loss = F.q_loss(torch.stack([x, x]), fixed, MASK) + F.expectile_loss(x, fixed, MASK, 0.7)
    loss.backward()
    assert fixed.grad is None


def test_utterances_by_hand() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    ends = torch.tensor([[0, 1, 1, 0, 1], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    found = F.find_utterances(ends, mask)  # row 2: its only utterance was not finished
    close(found.mask, [[True, True, True], [True, False, False], [True, False, False]])
    close(found.first, [[0, 2, 3], [0, 0, 0], [0, 0, 0]])
    close(found.last, [[1, 2, 4], [1, 0, 0], [0, 0, 0]])
    close(found.number, [[0, 0, 1, 2, 2], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    x = torch.arange(15.0).reshape(3, 5).masked_fill(~mask, NAN)
    close(F.sum_over_utterances(x, mask, found), [[1.0, 2.0, 7.0], [11.0, 0, 0], [10.0, 0, 0]])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**31))
def test_utterances_partition_the_actions(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ends = (torch.rand(mask.shape) < 0.4) & mask
    found = F.find_utterances(ends, mask)
    ones = F.sum_over_utterances(torch.ones(mask.shape), mask, found)
    close(ones[found.mask], (found.last - found.first + 1)[found.mask].float())
    assert int(ones.sum()) == sum(lengths) and (ones[~found.mask] == 0).all()


def test_guided_logits() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    advantages = torch.tensor([[math.log(3.0), 0.0, 9.0]])
    close(F.guided_logits(logits, advantages, 1.0).softmax(1), [[0.75, 0.25, 0.0]])
    close(F.guided_logits(logits, advantages, 2.0).softmax(1), [[0.9, 0.1, 0.0]])
    close(F.guided_logits(logits, advantages + 5.0, 2.0).softmax(1), [[0.9, 0.1, 0.0]])


@pytest.mark.parametrize("call", ["targets", "q", "v", "awac"])
def test_shapes_are_checked(call: str) -> None:
    x, wrong = torch.zeros(2, 3), torch.zeros(2, 2)
    never = torch.zeros_like(MASK)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        if call == "targets":
            F.td_targets(x, wrong, never, MASK, 1.0)
        elif call == "q":
            F.q_loss(torch.stack([x, x]), wrong, MASK)
        elif call == "v":
            F.expectile_loss(wrong, x, MASK, 0.5)
        else:
            F.awac_loss(wrong, x, MASK)
