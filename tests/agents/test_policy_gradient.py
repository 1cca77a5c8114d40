"""REINFORCE, RLOO and GRPO: groups, baselines, gradients by hand, bookkeeping."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from models import Share, tiny_gpt2
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import text_envs
from agents import GRPO, REINFORCE, RLOO, policy_gradient
from agents.rollouts.groups import collect_groups
from agents.training.micro_batches import Part
from text_envs.guides.roll_in import GuidedStarts

CLASSES = [REINFORCE, RLOO, GRPO]


def make(cls: Any, env: Any = None, **kwargs: Any) -> Any:
    env = text_envs.make_sb3(Share(), num_envs=16) if env is None else env
    arguments = {"n_episodes": 16, "seed": 0, "device": "cpu"} | kwargs
    policy_kwargs = {"model": tiny_gpt2(env.get_attr("tokenizer")[0].vocab_size)}
    return cls("CausalLMPolicy", env, policy_kwargs=policy_kwargs, **arguments)


@pytest.mark.parametrize("cls", CLASSES)
def test_learns_the_trivial(cls: Any) -> None:
    agent = make(cls, n_episodes=32, learning_rate=1e-2, batch_size=8)
    agent.learn(9_000)
    assert np.mean([episode["r"] for episode in agent.ep_info_buffer]) > 0.8


@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
@pytest.mark.parametrize("wrap", [lambda env: env, VecMonitor])
def test_groups_share_their_start(wrap: Any) -> None:
    env = wrap(text_envs.make_sb3(Share(), num_envs=8))
    agent = make(RLOO, env, n_episodes=24, group_size=4)
    agent.learn(1)
    starts = [info["example_index"] for info in agent.rollout.infos]
    assert len(starts) == 24 and len(set(starts)) > 1
    for begin in range(0, 24, 4):
        assert len(set(starts[begin : begin + 4])) == 1
    texts = {info["text"] for info in agent.rollout.infos[:4]}
    assert len(texts) > 1  # one start, and then each its own way


def test_an_id_gets_environments_in_whole_groups() -> None:
    def environments(**kwargs: Any) -> int:
        policy_kwargs = {"model": tiny_gpt2(16)}
        arguments = {"device": "cpu", "policy_kwargs": policy_kwargs}
        return int(RLOO("CausalLMPolicy", "text_envs/Toy-v0", **arguments | kwargs).n_envs)

    assert environments(n_episodes=100, group_size=4) == 20
    assert environments(n_episodes=128, group_size=128) == 128
    assert environments(n_episodes=100, group_size=2) == 50


@pytest.mark.parametrize("credit", ["text", "to_go"])
def test_one_episode_of_one_token(credit: str) -> None:
    agent = make(REINFORCE, text_envs.make_sb3(Share(1), num_envs=1), n_episodes=1, credit=credit)
    agent.learn(3)
    assert agent.num_timesteps == 3
    assert agent.logger.name_to_value["train/advantage_std"] == 0.0


def test_groups_over_single_environments() -> None:
    env = make_vec_env("text_envs/Reviews-v0", n_envs=4, env_kwargs={"max_tokens": 3})
    agent = RLOO("CausalLMPolicy", env, n_episodes=4, group_size=2, seed=0, device="cpu")
    agent.learn(1)
    starts = [info["example_index"] for info in agent.rollout.infos]
    assert starts[0] == starts[1] and starts[2] == starts[3]


def loss_of(agent: Any, index: torch.Tensor) -> torch.Tensor:
    """Return the loss of one minibatch."""
    part = Part.of(agent.rollout.select(index))
    length = agent.rollout.lengths.float().mean()
    loss: torch.Tensor = agent._loss(part, advantages=advantages(agent)[index], length=length)[0]
    return loss


def advantages(agent: Any) -> torch.Tensor:
    found: torch.Tensor = agent._advantages(agent.rollout)
    return found


@pytest.mark.parametrize("cls", CLASSES)
def test_gradient_is_that_of_the_definition(cls: Any) -> None:
    """-1/(B mean length) sum_i A_i grad log pi(x_i), with A by hand from the group's rewards."""
    agent = make(cls, group_size=4, kl_coef=0.3, reference=tiny_gpt2(16, seed=5))
    agent.collect_rollouts(agent.env, agent._setup_learn(1)[1])
    rollout = agent.rollout
    k1 = (rollout.log_probs - rollout.ref_log_probs).sum(dim=1)
    totals = (rollout.episode_rewards - 0.3 * k1).double().numpy()
    expected = []
    for i, total in enumerate(totals):
        group = totals if cls is REINFORCE else totals[i // 4 * 4 : i // 4 * 4 + 4]
        others = (group.sum() - total) / (len(group) - 1)
        deviation = group.std(ddof=1) if cls is GRPO else 1.0
        expected.append((total - (group.mean() if cls is GRPO else others)) / deviation)
    weights = torch.tensor(np.array(expected)).float()
    parameters = [p for p in agent.policy.actor.parameters() if p.requires_grad]
    log_probs, _, _ = agent.policy.evaluate_episodes(
        rollout.tokens, rollout.columns, rollout.actions, rollout.mask
    )
    by_hand = -(weights * log_probs.sum(dim=1)).sum() / rollout.mask.sum()
    wanted = torch.autograd.grad(by_hand, parameters, allow_unused=True)
    loss = loss_of(agent, torch.arange(16))
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_minibatches_add_up_to_the_whole() -> None:
    """The mean over minibatches weighs every text alike, however long its minibatch is."""
    agent = make(REINFORCE, text_envs.make_sb3(Share(), num_envs=16))
    agent.collect_rollouts(agent.env, agent._setup_learn(1)[1])
    whole = loss_of(agent, torch.arange(16))
    order = agent.rollout.lengths.argsort()
    parts = [loss_of(agent, index) for index in order.split(4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, atol=1e-6, rtol=1e-4)


def test_to_go_leaves_the_past_out() -> None:
    agent = make(RLOO, credit="to_go", kl_coef=0.5, reference=tiny_gpt2(16, seed=5))
    agent.collect_rollouts(agent.env, agent._setup_learn(1)[1])
    rollout = agent.rollout
    penalty = 0.5 * (rollout.log_probs - rollout.ref_log_probs) * rollout.mask
    text = make(RLOO, kl_coef=0.5, reference=tiny_gpt2(16, seed=5))
    before = (rollout.rewards - penalty).cumsum(dim=1) - (rollout.rewards - penalty)
    wanted = torch.where(rollout.mask, text._advantages(rollout) - before, torch.tensor(0.0))
    torch.testing.assert_close(advantages(agent), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cls", CLASSES)
def test_saves_and_goes_on_exactly(cls: Any, tmp_path: Path) -> None:
    def weights(agent: Any) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()

    straight = make(cls, kl_coef=0.1)
    straight.learn(200)
    straight.save(tmp_path / "model")
    straight.learn(200, reset_num_timesteps=False)
    for seed in (None, 5):  # one that the new environment was made with is not applied later
        env = text_envs.make_sb3(Share(), num_envs=16, seed=seed)
        again = cls.load(tmp_path / "model", env=env)
        again.learn(200, reset_num_timesteps=False)
        assert torch.equal(weights(straight), weights(again)), seed
    assert again.group_size == straight.group_size and again.baseline == straight.baseline


def test_card_lists_the_metrics_that_are_logged() -> None:
    logged: set[str] = set()

    class Spy(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            logged.add(key)
            super().record(key, value, exclude)

    agent = make(RLOO, kl_coef=0.1, ent_coef=0.01, clip_range=0.2)
    agent.set_logger(Spy(None, []))
    agent.learn(100)
    card = inspect.getdoc(policy_gradient)
    section = card.split("**Metrics**")[1].split("**References**")[0]  # type: ignore[union-attr]
    listed = {
        name.replace("<term>", "task")
        for name in re.findall(r"`((?:rollout|train|time)/[\w<>]+)`", section)
    }
    assert logged == listed


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        (RLOO, {"group_size": 1}, "group_size must be at least 2 with baseline='group', got 1"),
        (RLOO, {"group_size": 5}, "group_size=5 must divide the 16 environments.*nearest: 4"),
        (RLOO, {"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
        (RLOO, {"group_size": 4.0}, "group_size must be an integer of at least 1, got 4.0"),
        (GRPO, {"baseline": "mean"}, "baseline must be one of none, batch, group, normalised"),
        (GRPO, {"credit": "to_go"}, "credit must be 'text' with 'normalised', got 'to_go'"),
        (REINFORCE, {"credit": "token"}, "credit must be one of text, to_go, got 'token'"),
        (REINFORCE, {"gamma": 0.9}, "gamma must be 1 unless credit='to_go', got 0.9"),
        (REINFORCE, {"batch_size": 64}, "batch_size must be None or 1..n_episodes=16"),
        (REINFORCE, {"clip_range": 0.0}, "clip_range must be None or above 0"),
    ],
)
def test_bad_arguments_are_explained(cls: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(cls, **kwargs)


@pytest.mark.parametrize("size", [2, 4])
def test_groups_share_what_a_guide_began(size: int) -> None:
    starts = GuidedStarts("script:expert", beta=1.0)
    env = text_envs.make_sb3("text_envs/ConceptsToSentence-v0", num_envs=8, seed=0, starts=starts)
    rollout = collect_groups(make(RLOO, env).policy, env, 16, size).rollout
    before = [
        rollout.tokens[i, : int(rollout.columns[i, 0]) + 1].tolist() for i in range(len(rollout))
    ]
    groups = [before[i : i + size] for i in range(0, 16, size)]
    assert all(text == group[0] for group in groups for text in group)
    prompt = env.get_attr("task")[0].prompt_length
    assert any(len(text) > prompt for text in before), "nothing was begun"
    single = DummyVecEnv(
        [lambda: gym.make("text_envs/Reviews-v0", starts=GuidedStarts("script:expert"))] * 2
    )
    with pytest.raises(ValueError, match="for which all rows must be in one batch"):
        make(RLOO, single, n_episodes=2, group_size=2).learn(1)


def test_texts_that_are_equally_good_teach_nothing() -> None:
    def constant(episodes: Any) -> Any:
        return np.full(len(episodes), 0.7)

    env = text_envs.make_sb3(Share(), num_envs=16, seed=0, reward=constant)
    agent = make(GRPO, env, group_size=8, learning_rate=1e-2)
    before = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
    agent.learn(200)
    assert torch.equal(torch.nn.utils.parameters_to_vector(agent.policy.parameters()), before)
