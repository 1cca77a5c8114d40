"""Copies go on as the original would, bit for bit, and share nothing that changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from hir_helpers import tiny_t5
from models import iid_lm

import agents
import text_envs
from agents.data.batches import offline_batch
from text_envs import datasets

TOY = "text_envs/Toy-v0"
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "cloudpickle": lambda x: pickle.loads(cloudpickle.dumps(x)),
}
MODEL = {"layers": 1, "width": 16}


@pytest.fixture(scope="module")
def recorded() -> Any:
    return datasets.collect(TOY, "random", 24, seed=0)


def make(name: str, recorded: Any, **policy_kwargs: Any) -> Any:
    """Return an agent of each class, with a small model and what makes its policy special."""
    cls: Any = getattr(agents, name)
    policy_kwargs = {"model": MODEL, **policy_kwargs}
    kwargs: dict[str, Any] = {"seed": 0, "device": "cpu", "policy_kwargs": policy_kwargs}
    if name in ("BC", "DecisionTransformer", "CQL", "ILQL", "MCValues"):
        policy = "CausalLMPolicy" if name in ("BC", "DecisionTransformer") else "ValueGuidedPolicy"
        return cls(policy, TOY, dataset=recorded, num_envs=4, batch_size=8, **kwargs)
    extra: dict[str, Any] = {"n_episodes": 8, "num_envs": 4}
    if name == "DPG":
        extra |= {"beta": 0.5, "proposal": "adaptive", "proposal_interval": 1}
    elif name in ("HIR", "FARL"):
        extra |= {"group_size": 2, "levels": [1.0], "n_epochs": 1}
    elif name in ("AggreVaTeD", "D2LOLS", "LOLS", "PPOPlusPlus"):
        extra |= {"guide": "script:random", "num_envs": 8, "kl_coef": 0.1}
    elif name in ("GRPO", "RLOO"):
        extra |= {"group_size": 2, "kl_coef": 0.1}
    else:
        extra |= {"kl_coef": 0.1, "kl_target": 0.5}
    return cls("CausalLMPolicy", TOY, **extra, **kwargs)


ALGORITHMS = [
    "AggreVaTeD", "BC", "CQL", "D2LOLS", "DPG", "DecisionTransformer", "FARL", "GRPO", "HIR",
    "ILQL", "LOLS", "MCValues", "PPO", "PPOPlusPlus", "REINFORCE", "RLOO",
]  # fmt: skip


def storages(*modules: Any) -> set[int]:
    found = set()
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.numel():
                found.add(tensor.untyped_storage().data_ptr())
    return found


def modules_of(agent: Any) -> list[Any]:
    found = [agent.policy, getattr(agent, "reference", None), getattr(agent, "_sampler", None)]
    return [module for module in found if module is not None]


def go_on(agent: Any) -> list[torch.Tensor]:
    torch.manual_seed(5)
    np.random.seed(5)
    agent.learn(24, reset_num_timesteps=False)
    return [p.detach().clone() for module in modules_of(agent) for p in module.parameters()]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_agent_and_its_copy_learn_alike(name: str, how: str, recorded: Any) -> None:
    agent = make(name, recorded)
    agent.learn(24)
    again = COPIES[how](agent)
    assert type(again) is type(agent) and again.num_timesteps == agent.num_timesteps
    assert not storages(*modules_of(agent)) & storages(*modules_of(again))
    before = [p.detach().clone() for p in again.policy.parameters()]
    wanted = go_on(agent)
    for one, other in zip(before, again.policy.parameters(), strict=True):
        assert torch.equal(one, other), "what the original learns, the copy does not"
    for one, other in zip(wanted, go_on(again), strict=True):
        assert torch.equal(one, other)
    lm, embeddings = again.policy.actor.lm, again.policy.actor.lm.get_input_embeddings()
    tied = agent.policy.actor.lm.get_output_embeddings().weight is (
        agent.policy.actor.lm.get_input_embeddings().weight
    )
    assert (lm.get_output_embeddings().weight is embeddings.weight) == tied


def play(policy: Any, obs: Any, env: Any, steps: int) -> list[Any]:
    """Sample step by step, as a roll-out does."""
    torch.manual_seed(3)
    found = []
    for _ in range(steps):
        actions = policy.predict(obs)[0]
        found.append(actions)
        obs = env.step(actions)[0]
    return found


def small_policy(kind: str, recorded: Any) -> Any:
    if kind == "seq2seq":
        env = text_envs.make_sb3(TOY, num_envs=4)
        kwargs = agents.policy_kwargs_for(env, tiny_t5(6))
        return agents.Seq2SeqPolicy(
            env.observation_space, env.action_space, lambda _: 1e-3, **kwargs
        )
    name = {"instructed": "HIR", "returns": "DecisionTransformer", "two": "LOLS"}
    agent = make(name.get(kind, {"plain": "PPO"}.get(kind, "ILQL")), recorded)
    if kind == "candidates":
        agent.policy.candidates = 3
    return agent.policy


KINDS = ["plain", "seq2seq", "instructed", "returns", "two", "guided", "candidates"]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_copied_within_an_episode_goes_on(kind: str, how: str, recorded: Any) -> None:
    env = text_envs.make_sb3(TOY, num_envs=4)
    policy = small_policy(kind, recorded)
    obs = env.reset()
    torch.manual_seed(0)
    for _ in range(2):
        obs = env.step(policy.predict(obs)[0])[0]
    again, other = COPIES[how](policy), copy.deepcopy(env)
    assert not storages(policy) & storages(again)
    for one, two in zip(play(policy, obs, env, 5), play(again, obs, other, 5), strict=True):
        np.testing.assert_array_equal(one, two)


def test_caches_belong_to_the_copy() -> None:
    policy = agents.PPO("CausalLMPolicy", TOY, n_episodes=8, device="cpu",
                        policy_kwargs={"model": iid_lm((0.5, 0.3, 0.2))}).policy  # fmt: skip
    env = text_envs.make_sb3(TOY, num_envs=4)
    policy.predict(env.reset())
    again = copy.deepcopy(policy)
    one, two = policy.actor._decoder, again.actor._decoder
    assert one is not two and one._cache is not two._cache
    assert one._cache.layers[0].keys.data_ptr() != two._cache.layers[0].keys.data_ptr()
    assert two._fingerprint.__self__ is again.actor and two.weights == again.actor._fingerprint()
    assert (two._cached > 0).all(), "what is cached was copied too"
    assert agents.freeze(policy).actor._decoder is None


@pytest.mark.parametrize("how", COPIES)
def test_data_are_copied_whole(how: str, recorded: Any) -> None:
    again = COPIES[how](recorded)
    assert again == recorded
    for name in ("tokens", "roles", "rewards", "example_indices", "truncated"):
        assert not np.shares_memory(getattr(again, name), getattr(recorded, name))
    assert again.metadata is not recorded.metadata
    batch = offline_batch(recorded, pad_id=recorded.metadata["tokenizer"]["pad_id"])
    other = COPIES[how](batch)
    agent = make("PPO", recorded).learn(8)
    rollout = COPIES[how](agent.rollout)
    for one, two in ((batch, other), (agent.rollout, rollout)):
        for field, value in vars(one).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(two, field))
                assert value.data_ptr() != getattr(two, field).data_ptr()
    rollout.infos[0]["text"] = "changed"
    assert agent.rollout.infos[0]["text"] != "changed"
