"""How often host and accelerator wait for each other, counted on a pretended one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from models import Share, tiny_gpt2
from pretend import DEVICE, Accelerator, Remote
from stable_baselines3.common.logger import configure

from agents import BC, PPO, RLOO
from agents.losses.on_policy import gae
from agents.rollouts.episodes import collect_episodes, score
from agents.training.micro_batches import Part
from text_envs.envs.vec_env import TokenVecEnv
from text_envs.envs.vector import TokenVectorEnv
from text_envs.lm import transfers

TASK = Share(6)


def make(algorithm: Any, **kwargs: Any) -> Any:
    lm = tiny_gpt2(TASK.tokenizer.vocab_size, layers=2)
    lm.set_attn_implementation("eager")  # the fast form's stand-in asks for a number by itself
    if algorithm is BC:
        kwargs["dataset"] = TASK.demonstrations(24, quality="random")
    else:
        kwargs.setdefault("n_episodes", 24)
    agent = algorithm(
        "CausalLMPolicy", TokenVecEnv(TokenVectorEnv(TASK, num_envs=8)), seed=0,
        policy_kwargs={"model": lm, "value_hidden": ()}, **kwargs,
    )  # fmt: skip
    agent.set_logger(configure(None, []))
    return agent


def move(agent: Any) -> None:
    """Put the policy on the pretended device; wrapped tensors forget that weights are tied."""
    agent.policy.to(DEVICE)
    agent.policy.actor.lm.tie_weights()


def counted(accelerator: Accelerator, work: Callable[[], Any]) -> tuple[Any, Counter[str]]:
    accelerator.seen.clear()
    result = work()
    return result, +accelerator.seen


def test_a_token_costs_one_transfer_each_way() -> None:
    """Also where rows end at different times, catch up with new prompts, and leave the batch."""
    agent = make(PPO)
    env, policy = agent.env, agent.policy
    with Accelerator() as accelerator:
        move(agent)
        assert all(isinstance(p, Remote) for p in policy.parameters())
        policy.act(env.reset(), np.arange(8))  # the first also tries the cache out
        obs, *_ = env.step(np.zeros(8, dtype=np.int64))
        _, seen = counted(accelerator, lambda: policy.act(obs, np.arange(8)))
        assert seen == {"download": 1, "upload": 1}

        acts: list[Counter[str]] = []
        act = policy.act

        def spy(*args: Any) -> Any:
            found, seen = counted(accelerator, lambda: act(*args))
            acts.append(seen)
            return found

        policy.act = spy
        rollout = collect_episodes(policy, env, 24, env.reset()).rollout
    assert len(set(rollout.lengths.tolist())) > 2 and len(acts) > 10
    for seen in acts:
        # A second upload where rows began anew, a third where the batch has become smaller.
        assert seen["download"] == 1 and seen["upload"] <= 3 and not seen["wait"], seen
    assert sum(seen["upload"] == 1 for seen in acts) > 0


def update_waits(batch_size: int, **kwargs: Any) -> list[Counter[str]]:
    """Return what the forward and backward passes of PPO's minibatches cost."""
    agent = make(PPO, batch_size=batch_size, **kwargs)
    rollout = collect_episodes(agent.policy, agent.env, 24, agent.env.reset()).rollout
    costs = []
    with Accelerator() as accelerator:
        move(agent)
        moved = rollout.to(DEVICE)
        (advantages, returns), seen = counted(accelerator, lambda: agent._advantages(moved))
        assert not seen["wait"] + seen["download"]
        for index in moved.minibatches(batch_size):
            _, seen = counted(
                accelerator,
                lambda i=index: agent._loss(Part.of(moved.select(i)), advantages[i], returns[i])[
                    0
                ].backward(),
            )
            costs.append(seen)
    return costs


@pytest.mark.parametrize("ent_coef", [0.0, 0.01])
def test_a_minibatch_waits_for_nothing(ent_coef: float) -> None:
    for batch_size in (4, 12, 24):
        for seen in update_waits(batch_size, ent_coef=ent_coef):
            assert not seen["wait"] + seen["download"], seen
            assert seen["upload"] <= 4  # of any size


@pytest.mark.parametrize(("algorithm", "kwargs"), [(RLOO, {"group_size": 2}), (PPO, {})])
def test_an_update_waits_a_number_of_times_that_no_size_enters(algorithm: Any, kwargs: Any) -> None:
    """`train` as it is: once a minibatch, whether the loss is finite, and for what is logged."""

    def waits(batch_size: int, n_episodes: int) -> int:
        agent = make(algorithm, n_episodes=n_episodes, batch_size=batch_size, **kwargs)
        rollout = collect_episodes(agent.policy, agent.env, n_episodes, agent.env.reset()).rollout
        with Accelerator() as accelerator:
            move(agent)
            agent.policy.optimizer = torch.optim.SGD(agent.policy.parameters(), lr=0.0)
            agent.rollout = rollout.to(DEVICE)
            accelerator.seen.clear()
            agent.train()
            return accelerator.waits

    one, twice_as_large = waits(8, 8), waits(16, 16)
    assert one == twice_as_large  # one minibatch each
    assert waits(8, 16) - one <= 2  # one minibatch more


def test_scores_of_a_reference_wait_for_nothing() -> None:
    agent = make(PPO)
    rollout = collect_episodes(agent.policy, agent.env, 24, agent.env.reset()).rollout
    wanted = score(agent.policy.actor, rollout, batch_size=7)
    with Accelerator() as accelerator:
        move(agent)
        moved = rollout.to(DEVICE)
        found, seen = counted(accelerator, lambda: score(agent.policy.actor, moved, batch_size=7))
        assert not seen["wait"] + seen["download"]
    torch.testing.assert_close(found.inner, wanted)
    torch.testing.assert_close(wanted, rollout.log_probs, rtol=1e-4, atol=1e-4)


def test_recorded_minibatches_wait_for_nothing() -> None:
    agent = make(BC)
    data = agent.data
    agent.policy.predict(agent.env.reset())  # tries out whether the model takes caches
    with Accelerator() as accelerator:
        move(agent)
        for rows in (np.arange(4), np.arange(24)):
            batch = data.select(rows).to(DEVICE)
            loss, seen = counted(accelerator, lambda b=batch: agent.log_probs(b).mean())
            assert not seen["wait"] + seen["download"], seen
            assert batch.num_steps == int(data.select(rows).mask.sum())
            loss.backward()


def test_the_pretended_accelerator_computes_what_the_cpu_does() -> None:
    """Or the counts would be of something else; gradients included."""
    agent = make(PPO)
    rollout = collect_episodes(agent.policy, agent.env, 24, agent.env.reset()).rollout
    part = rollout.select(torch.tensor([5, 0, 9]))

    def passes(policy: Any, part: Any) -> Any:
        log_probs, values, entropy = policy.evaluate_episodes(
            part.tokens, part.columns, part.actions, part.mask, with_entropy=True
        )
        loss = log_probs.sum() + values.square().sum() + entropy.sum()
        parameters = [p for p in policy.parameters() if p.requires_grad]
        return [loss, *torch.autograd.grad(loss, parameters, allow_unused=True)]

    wanted = passes(agent.policy, part)
    with Accelerator():
        move(agent)
        found = passes(agent.policy, rollout.to(DEVICE).select(torch.tensor([5, 0, 9])))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.inner, other, rtol=1e-5, atol=1e-6)


def test_chosen_episodes_remember_what_the_host_knows() -> None:
    agent = make(PPO)
    rollout = collect_episodes(agent.policy, agent.env, 24, agent.env.reset()).rollout
    rollout = replace(rollout, policy_mask=rollout.mask.clone())
    index = torch.tensor([3, 1, 7, 2])
    wanted = rollout.select(index)
    with Accelerator() as accelerator:
        moved = rollout.to(DEVICE)
        accelerator.seen.clear()
        found = moved.select(transfers.to_device(index, DEVICE)).select(
            transfers.to_device(torch.arange(4), DEVICE)
        )
        for name in ("tokens", "columns", "mask", "policy_mask"):
            (known,) = transfers.on_host(getattr(found, name))
            np.testing.assert_array_equal(known, getattr(wanted, name).numpy())
        assert accelerator.waits == 0
    for field in fields(found):
        if isinstance(value := getattr(found, field.name), Remote):
            assert torch.equal(value.inner, getattr(wanted, field.name)), field.name


def test_what_was_changed_since_is_asked_for_again() -> None:
    ids = torch.arange(6).reshape(2, 3)
    with Accelerator() as accelerator:
        there = transfers.to_device(ids, DEVICE)
        mask = transfers.to_device(ids % 2 == 0, DEVICE)
        assert transfers.on_host(there)[0].tolist() == ids.tolist() and accelerator.waits == 0
        there += 1
        first, second, third = transfers.on_host(there, mask, there + 1)
        assert accelerator.seen["download"] == 1  # for the two that are not known
        assert first.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert second.tolist() == (ids % 2 == 0).tolist()
        assert third.tolist() == [[2, 3, 4], [5, 6, 7]]
        transfers.on_host(there)
        assert accelerator.seen["download"] == 1


def test_transfers_keep_every_bit() -> None:
    ids = torch.tensor([0, 2**31 - 1, 49_151])
    numbers = torch.tensor([float("nan"), -0.0, 1e-40])
    with Accelerator() as accelerator:
        found, same = transfers.download(ids.to(DEVICE), numbers.to(DEVICE))
        assert accelerator.seen["download"] == 1
        uploaded = transfers.upload(DEVICE, np.arange(4).reshape(2, 2), np.array([[7]]))
        assert [x.inner.tolist() for x in uploaded] == [[[0, 1], [2, 3]], [[7]]]
    assert found.dtype == np.int64 and found.tolist() == ids.tolist()
    assert same.tobytes() == numbers.numpy().tobytes()


def test_masked_places() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    places = transfers.places_of(mask)
    assert places.tolist() == [0, 2, 3]
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert transfers.taken(x, mask).tolist() == [1.0, 3.0, 4.0]
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    wide = transfers.spread(values, places, mask.shape)
    assert wide.tolist() == [[[1, 0], [2, 3]], [[4, 0], [5, 6]]]
    (wide * torch.arange(8.0).reshape(2, 2, 2)).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[0, 2, 3], [4, 6, 7]]


def test_checks_of_masks_know_the_host() -> None:
    with Accelerator() as accelerator:
        mask = transfers.to_device(torch.tensor([[True, False, True]]), DEVICE)
        zeros = torch.zeros(1, 3).to(DEVICE)
        accelerator.seen.clear()
        with pytest.raises(ValueError, match="right-padded"):
            gae(zeros, zeros, mask)
        assert accelerator.waits == 0
