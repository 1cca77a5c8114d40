"""Fused optimisers: the same steps, told to whoever remembers states of the weights."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from models import Share, tiny_gpt2

import agents
import text_envs
from agents.policies.optimisers import FusedAdam, make_optimizer
from agents.training.gradients import clip_gradients


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_a_fused_step_is_the_plain_one_and_counts_as_a_change(kind: Any) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(9, 5), torch.tensor(1.5), torch.randn(4, 6).T]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in weights] for _ in range(2))
    one = make_optimizer(kind, ours, 0.1, {"weight_decay": 0.01})
    other = kind(theirs, lr=0.1, weight_decay=0.01, foreach=False, fused=False)
    assert isinstance(one, kind) and one.param_groups[0]["fused"] is True
    for step in range(3):
        if step == 1:
            one = pickle.loads(pickle.dumps(one))
            ours = one.param_groups[0]["params"]
        before = [p._version for p in ours]
        for a, b in zip(ours, theirs, strict=True):
            b.grad = torch.randn_like(b)
            a.grad = b.grad.clone()
        one.step()
        other.step()
        for a, b, version in zip(ours, theirs, before, strict=True):
            torch.testing.assert_close(a, b)
            assert a._version > version


def test_another_form_or_another_class_is_left_alone() -> None:
    weights = [torch.nn.Parameter(torch.randn(3))]
    assert type(make_optimizer(torch.optim.Adam, weights, 0.1, {"foreach": True})) is (
        torch.optim.Adam
    )
    plain = make_optimizer(torch.optim.Adam, weights, 0.1, {"fused": False})
    assert type(plain) is torch.optim.Adam
    assert type(make_optimizer(torch.optim.RMSprop, weights, 0.1, {})) is torch.optim.RMSprop


def test_cached_states_are_dropped_after_a_step() -> None:
    env = text_envs.make_sb3(Share(), num_envs=4, seed=0)
    kwargs = {"model": tiny_gpt2(16)}
    agent: Any = agents.PPO("CausalLMPolicy", env, n_episodes=4, batch_size=4, policy_kwargs=kwargs)
    for policy in (agent.policy, copy.deepcopy(agent.policy)):
        assert isinstance(policy.optimizer, FusedAdam)
        obs = env.reset()
        cached, _ = policy.actor.decode(obs)
        for parameter in policy.actor.parameters():
            parameter.grad = torch.ones_like(parameter)
        policy.optimizer.step()
        again, _ = policy.actor.decode(obs)
        policy.actor.invalidate()
        anew, _ = policy.actor.decode(obs)
        assert torch.equal(again, anew) and not torch.equal(again, cached)


def test_gradients_are_scaled_down_and_never_up() -> None:
    gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert clip_gradients(gradients, 10.0).item() == 5.0
    assert [g.item() for g in gradients] == [3.0, 4.0]
    assert clip_gradients(gradients, 1.0).item() == 5.0
    torch.testing.assert_close(torch.cat(gradients), torch.tensor([0.6, 0.8]))
