"""What a tree is made from, what is refused, and how large it may be."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import Echo
from models import Share, tiny_gpt2

import text_envs
from text_envs import Task, exact
from text_envs.policies.functions import as_log_probs, uniform
from text_envs.tasks.toy import Toy
from text_envs.tasks.wordle import Wordle


class TokenPrice:
    """A shaping plug-in: every token costs its own price."""

    prices = np.array([0.1, 0.2, 0.3])

    def __init__(self) -> None:
        self.bound: list[Any] = []

    def bind(self, task: Task) -> None:
        self.bound.append(task)

    def shape(self, tokens: Any, actions: Any, rows: Any) -> Any:
        return -self.prices[actions] * (tokens[:, 1:] == 3).sum(axis=1)


def test_shaping_counts() -> None:
    price = TokenPrice()
    env = gym.make("text_envs/Toy-v0", shaping=price)
    optimum = exact.solve(env, beta=0.4)
    q, observations = optimum.action_values, optimum.tree.observations
    for observation, values in zip(observations, q, strict=True):
        env.reset(options={"prefix": observation[1:]})
        state = env.unwrapped.get_state()
        for action in range(3):
            env.unwrapped.set_state(state)
            after, reward, ended, _, _ = env.step(action)
            assert values[action] == pytest.approx(
                float(reward) + (0.0 if ended else optimum.v(after)), abs=1e-12
            )
    assert len(price.bound) == 1


def test_reward_model_of_the_environment_counts() -> None:
    env = text_envs.TokenEnv(Toy(), reward=lambda episodes: episodes.lengths.astype(float))
    assert exact.solve(env).value == 3.0
    env.reward_model = lambda episodes: -episodes.lengths.astype(float)
    assert exact.solve(env).value == 0.0


def test_everything_that_stands_for_an_environment() -> None:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecCheckNan

    toy = "text_envs/Toy-v0"
    sources = [
        toy,
        Toy(),
        gym.make(toy),
        gym.wrappers.TimeLimit(gym.make(toy), 2),
        gym.make_vec(toy, num_envs=2, vectorization_mode="vector_entry_point"),
        gym.make_vec(toy, num_envs=2, vectorization_mode="sync"),
        text_envs.make_sb3(toy, num_envs=2),
        VecCheckNan(text_envs.make_sb3(toy, num_envs=2)),
        make_vec_env(toy, n_envs=2),
        exact.enumerate_tree(toy),
    ]
    assert [exact.solve(source).value for source in sources] == [1.5] * len(sources)


def test_what_does_not_is_refused() -> None:
    from stable_baselines3.common.vec_env import VecNormalize

    with pytest.raises(TypeError, match="must be an id, a Task.*got int"):
        exact.solve(3)
    with pytest.raises(TypeError, match="got .*CartPole|got .*Wrapper|got TimeLimit"):
        exact.solve(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="plain environment of WordSorting"):
        exact.solve("text_envs/WordSortingGoal-v0")
    doubled = gym.wrappers.TransformReward(gym.make("text_envs/Toy-v0"), lambda r: 2 * r)
    with pytest.raises(ValueError, match="TransformReward changes the rewards"):
        exact.solve(doubled)
    with pytest.raises(ValueError, match="VecNormalize changes the rewards"):
        exact.solve(VecNormalize(text_envs.make_sb3("text_envs/Toy-v0", num_envs=2)))


def test_chance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Echo .*draws random numbers.*rng\.random"):
        exact.solve(Echo(max_tokens=4))
    with pytest.raises(ValueError, match=r"Wordle .*draws random numbers.*rng\.random"):
        exact.solve(Wordle(target="resample", tries=1), max_nodes=10**9)
    noisy = text_envs.TokenEnv(
        Toy(), reward=lambda episodes: np.array([rng.normal() for rng in episodes.rngs])
    )
    with pytest.raises(ValueError, match=r"Toy \(or its reward model\) draws.*rng\.normal"):
        exact.solve(noisy)


def test_failing_reward_models_are_named() -> None:
    broken = text_envs.TokenEnv(Toy(), reward=lambda episodes: np.full(len(episodes), np.nan))
    with pytest.raises(text_envs.RewardModelError, match="must be finite"):
        exact.solve(broken)


def test_large_trees_are_refused_before_they_grow() -> None:
    with pytest.raises(ValueError, match=r"tree of Reviews is too large: [\d,]+ nodes after 1 of"):
        exact.solve("text_envs/Reviews-v0")
    with pytest.raises(
        ValueError,
        match=r"22 nodes after 3 of up to 3 tokens \(1 examples, 3 actions\).*max_nodes=21",
    ):
        exact.solve(Toy(), max_nodes=21)
    assert exact.solve(Toy(), max_nodes=22).value == 1.5


def test_language_models_and_agents() -> None:
    import torch
    from stable_baselines3 import PPO

    task, lm = Share(max_tokens=2), tiny_gpt2(16)
    found = exact.evaluate(task, lm)
    total = 0.0
    for index in range(len(task)):
        prompt = task.prompts(np.array([index]))[0]
        prompt = prompt[prompt != task.tokenizer.pad_id]
        with torch.no_grad():
            for first in range(13):
                ids = torch.tensor([[*prompt.tolist(), first]])
                p = lm(ids).logits[0, -2:, :13].double().softmax(dim=-1)
                second = p[1] if first != 12 else torch.eye(13)[0].double()
                share = (first == 3) + (torch.arange(13) == 3) * float(first != 12)
                total += float(p[0, first] * (second @ share.double())) / 2
    assert found.mean_return == pytest.approx(total / len(task), abs=1e-6)

    agent = PPO("MlpPolicy", text_envs.make_sb3("text_envs/Toy-v0", num_envs=2), n_steps=8,
                batch_size=4, device="cpu")  # fmt: skip
    by_agent = exact.evaluate("text_envs/Toy-v0", agent)
    assert by_agent == exact.evaluate("text_envs/Toy-v0", as_log_probs(agent, Toy()))
    assert by_agent.entropy > 1.0


def automaton_value(length: int, beta: float) -> float:
    """V of Toy under uniform actions: the last letter and whether "a b" has come up suffice."""
    value = {(after_a, contains): float(contains) for after_a in (0, 1) for contains in (0, 1)}
    for _ in range(length):
        value = {
            (after_a, contains): beta * np.log(np.mean(np.exp(np.array([
                value[1, contains], value[0, contains or after_a], contains + 0.5,
            ]) / beta)))
            for after_a, contains in value
        }  # fmt: skip
    return float(value[0, 0])


def test_a_million_nodes() -> None:
    optimum = exact.solve(Toy(max_tokens=19), beta=0.5)
    assert optimum.tree.num_nodes + optimum.tree.num_sequences > 1_500_000
    assert optimum.value == pytest.approx(automaton_value(19, 0.5), abs=1e-12)
    found = exact.evaluate(optimum.tree, optimum, beta=0.5)
    assert found.objective == pytest.approx(optimum.value, abs=1e-12)


def test_evaluations_are_plain_values() -> None:
    found = exact.evaluate(Toy(), uniform(Toy()), beta=1.0)
    assert all(type(value) is float for value in dataclasses.asdict(found).values())
