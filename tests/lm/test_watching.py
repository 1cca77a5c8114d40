"""Caches notice changed weights, also where only a few are looked at each time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_gpt2
from torch import nn

from text_envs.lm.action_lm import ActionLM
from text_envs.lm.watching import _GLANCES, WeightWatch, held

TOKENS = np.array([[1, 2, 3, 18], [4, 5, 18, 18]], dtype=np.int64)


def actor() -> ActionLM:
    return ActionLM(tiny_gpt2(20, layers=4), num_actions=17, pad_id=18, prompt_length=2)


def assert_fresh(lm: ActionLM) -> None:
    torch.testing.assert_close(
        lm.decode(TOKENS)[0], lm._encode_last(TOKENS, torch.device("cpu"))[0], rtol=1e-4, atol=1e-4
    )


def by_optimiser(lm: nn.Module) -> None:
    """A single tensor, as a LoRA adapter may be; the count of steps tells, not the glance."""
    parameter = lm.transformer.h[3].mlp.c_fc.weight  # type: ignore[union-attr,index]
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    parameter.grad = torch.randn_like(parameter)  # type: ignore[union-attr]
    optimizer.step()


@torch.no_grad()
def by_hand(lm: nn.Module) -> None:
    for parameter in lm.parameters():
        parameter.mul_(1.5)


def by_loading(lm: nn.Module) -> None:
    lm.load_state_dict({k: 1.5 * v for k, v in lm.state_dict().items()})


def by_vector(lm: nn.Module) -> None:
    flat = nn.utils.parameters_to_vector(lm.parameters())
    nn.utils.vector_to_parameters(1.5 * flat, lm.parameters())


@pytest.mark.parametrize("change", [by_optimiser, by_hand, by_loading, by_vector])
@pytest.mark.parametrize("within", [False, True])
def test_what_changes_weights_is_noticed_at_the_next_token(change: Any, within: bool) -> None:
    lm = actor()
    if not within:
        lm.decode(TOKENS)
        change(lm.lm)
        assert_fresh(lm)
        return
    with held(nn.ModuleDict({"policy": lm})):
        before = lm.decode(TOKENS)[0].clone()
        change(lm.lm)
        assert_fresh(lm)
        assert not torch.allclose(before, lm.decode(TOKENS)[0])


def test_a_single_tensor_is_noticed_within_a_round_and_at_once_afterwards() -> None:
    for place in range(30):
        parameters = [torch.zeros(2) for _ in range(30)]
        watch = WeightWatch(parameters)
        with watch.hold():
            before = watch.mark()
            parameters[place].add_(1)
            calls = next(i for i in range(1, 99) if watch.mark() != before)
            assert calls <= -(-30 // _GLANCES) + 1
            after = watch.mark()
            assert watch.mark() == after
        parameters[place].add_(1)
        assert watch.mark() not in (before, after)


def test_a_token_looks_at_a_few_parameters() -> None:
    looked = []

    class Spied(torch.Tensor):
        def data_ptr(self) -> int:
            looked.append(1)
            return super().data_ptr()

    watch = WeightWatch([torch.zeros(2).as_subclass(Spied) for _ in range(300)])
    with watch.hold():
        assert len(looked) == 300
        watch.mark()
        assert len(looked) == 300 + _GLANCES
    watch.mark()
    assert len(looked) == 600 + _GLANCES


def test_copies_watch_their_own_weights() -> None:
    lm = actor()
    with held(lm):
        lm.decode(TOKENS)
        twin = copy.deepcopy(lm)
    by_hand(twin.lm)
    assert_fresh(twin)
    assert_fresh(lm)
