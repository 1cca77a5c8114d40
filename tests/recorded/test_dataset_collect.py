"""Recording episodes: every kind of environment and policy, and what is kept when it fails."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import Echo
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan

import text_envs
from text_envs import Role, TokenEnv, TokenVectorEnv, datasets
from text_envs.datasets import EpisodeDataset, collect
from text_envs.policies.functions import uniform
from text_envs.tasks.toy import Toy


def hashed(actions: int) -> Callable[[Any], Any]:
    """A policy that is a fixed function of the observation."""
    return lambda obs: (obs * np.arange(3, 3 + obs.shape[1])).sum(axis=1) % actions


def share(episodes: Any) -> np.ndarray[Any, Any]:
    """A reward that float32 cannot hold."""
    return np.asarray((episodes.response == 0).mean(axis=1) / 3 + 0.1)


def wrap(task: Any, **kwargs: Any) -> Callable[[], TokenEnv]:
    return lambda: TokenEnv(task, **kwargs)


@pytest.mark.parametrize("task", [Echo(max_tokens=20, max_turn_tokens=3), Toy()])
def test_environments_of_every_kind_record_the_same_episodes(task: Any) -> None:
    reward = {} if task.multi_turn else {"reward": share}
    policy = hashed(task.tokenizer.num_actions)
    native = TokenVectorEnv(task, num_envs=3, **reward)
    expected = collect(native, policy, 7, seed=5)
    assert len(expected) == 7 and (expected.roles == Role.REPLY).any() == task.multi_turn
    own_face = text_envs.make_sb3(TokenVectorEnv(task, num_envs=3, **reward))
    dummy = DummyVecEnv([wrap(task, **reward)] * 3)  # type: ignore[list-item]
    for env in (native, own_face, VecCheckNan(own_face), dummy):
        assert collect(env, policy, 7, seed=5) == expected
    # Row 0 plays three of the seven; a single environment with its seed plays the same ones.
    single = collect(TokenEnv(task, **reward), policy, 3, seed=5)
    assert single == expected.select([0, 1, 2])


def test_rewards_and_tokens_are_those_of_step() -> None:
    env = TokenEnv(Echo(max_tokens=20, max_turn_tokens=3))
    policy = hashed(5)
    data = collect(env, policy, 4, seed=1)
    obs, _ = env.reset(seed=1)
    for i in range(4):
        rewards, done = [], False
        while not done:
            obs, reward, done, _, info = env.step(int(policy(obs[None])[0]))
            rewards.append(float(reward))
        assert np.array_equal(data.tokens[i], obs) and np.array_equal(data.roles[i], info["roles"])
        assert data.rewards[i][data.action_mask[i]].tolist() == rewards
        assert data.finish_reasons[i] == info["finish_reason"]
        assert data.example_indices[i] == info["example_index"]
        obs, _ = env.reset()


def test_no_preference_for_short_episodes() -> None:
    # As in the tests of demonstrations, by enumeration of Toy's 15 texts.
    exact = 1 / 9 + 2 / 27 + 0.5 * (1 / 3 + 2 / 9 + 4 / 27)
    data = collect("text_envs/Toy-v0", uniform(Toy()), 4001, seed=2, num_envs=100)
    standard_error = data.returns.std() / np.sqrt(len(data))
    assert len(data) == 4001 and abs(data.returns.mean() - exact) < 4 * standard_error
    short = (data.action_mask.sum(axis=1) == 1).mean()
    assert abs(short - 1 / 3) < 4 * np.sqrt(2 / 9 / len(data))


def test_log_probabilities_are_drawn_from_and_the_seed_repeats() -> None:
    odds = np.log([0.7, 0.3, 1e-300])

    def policy(obs: Any) -> Any:
        return np.broadcast_to(odds, (len(obs), 3))

    data = collect("text_envs/Toy-v0", policy, 1000, seed=3)
    first = data.tokens[:, 1]
    assert abs((first == 0).mean() - 0.7) < 0.06 and not (first == 2).any()
    assert data == collect("text_envs/Toy-v0", policy, 1000, seed=3)
    assert data != collect("text_envs/Toy-v0", policy, 1000, seed=4)
    assert data.metadata["policy"].endswith("policy")
    greedy = collect("text_envs/Toy-v0", policy, 5, deterministic=True)
    assert greedy.tokens[:, 1:].tolist() == [[0, 0, 0]] * 5


def test_a_scripted_quality_plays_as_the_demonstrations_do() -> None:
    data = collect("text_envs/Maze-v0", "mixed", 40, seed=1)
    policies = set(data.columns["policy"].tolist())
    assert policies == {"expert", "walk"}
    expert = data.filter(lambda d: d.columns["policy"] == "expert")
    best = gym.make("text_envs/Maze-v0").unwrapped.task.optimal_returns  # type: ignore[attr-defined]
    assert expert.returns.tolist() == best[expert.example_indices].tolist()
    for env in (
        gym.make("text_envs/Toy-v0"),
        text_envs.make_sb3("text_envs/Toy-v0", num_envs=2),
        TokenVectorEnv(Toy(), num_envs=2),
    ):
        assert collect(env, "expert", 5).returns.tolist() == [1.5] * 5
    random = collect("text_envs/Toy-v0", "random", 500)
    assert len(np.unique(random.tokens, axis=0)) == 15
    with pytest.raises(TypeError, match="'expert' sees more than observations"):
        collect(DummyVecEnv([wrap(Toy())]), "expert", 1)  # type: ignore[list-item]


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_agents_of_stable_baselines3_play_by_predict(kind: Any) -> None:
    arguments = {"n_steps": 8, "batch_size": 8} if kind is PPO else {"buffer_size": 10}
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=2)
    agent = kind("MlpPolicy", env, seed=0, device="cpu", **arguments)
    data = collect("text_envs/Toy-v0", agent, 100, seed=1)
    assert data == collect("text_envs/Toy-v0", agent, 100, seed=1)
    assert data.metadata["policy"] == kind.__name__
    greedy = collect("text_envs/Toy-v0", agent, 3, deterministic=True)
    obs = greedy.tokens[:1].copy()
    obs[:, 1:] = Toy().tokenizer.pad_id
    assert (greedy.tokens[:, 1] == agent.predict(obs, deterministic=True)[0]).all()
    if kind is PPO:  # a batch that shrinks leaves every row its own observation
        assert len(np.unique(data.tokens, axis=0)) > 5


def test_an_outer_limit_truncates_in_every_kind_of_environment() -> None:
    policy = hashed(4)

    def limited() -> Any:
        return gym.wrappers.TimeLimit(TokenEnv(Echo(max_tokens=20)), 3)

    single = collect(limited(), policy, 5, seed=3)
    cut = single.truncated
    assert cut.any() and (single.action_mask.sum(axis=1) <= 3).all()
    assert {r for r, t in zip(single.finish_reasons, cut, strict=True) if t} == {"truncated"}
    native = TokenVectorEnv(Echo(max_tokens=20), max_episode_steps=3)
    for env in (native, DummyVecEnv([limited])):
        other = collect(env, policy, 5, seed=3)
        assert other.metadata.pop("env_id") is None  # type: ignore[attr-defined]
        for name in ("tokens", "roles", "rewards", "truncated", "example_indices"):
            assert np.array_equal(getattr(other, name), getattr(single, name)), name
        assert other.finish_reasons == single.finish_reasons


def test_goals_are_observed_and_their_rewards_recorded() -> None:
    def right(obs: Any) -> Any:
        assert set(obs) == {"observation", "achieved_goal", "desired_goal"}
        return np.full(len(obs["observation"]), 1)

    for env in (
        gym.make("text_envs/ObjectCountingGoal-v0"),
        gym.make_vec("text_envs/ObjectCountingGoal-v0", num_envs=2).unwrapped,
    ):
        data = collect(env, right, 4, seed=0)
        assert set(data.returns.tolist()) <= {0.0, 1.0} and len(data) == 4


class FailsLater:
    """A policy that raises at its n-th call."""

    def __init__(self, calls: int, error: BaseException) -> None:
        self.calls, self.error = calls, error

    def predict(self, obs: Any, deterministic: bool = False) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return np.zeros(len(obs), dtype=np.int64), None


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt()])
def test_an_exception_keeps_what_was_collected(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        collect("text_envs/Toy-v0", FailsLater(7, error), 12, seed=0, num_envs=3)
    kept: EpisodeDataset = caught.value.partial_dataset  # type: ignore[attr-defined]
    assert len(kept) == 6  # three columns of a: two rounds of three rows, and one call more
    assert kept.tokens[:, 1:].tolist() == [[0, 0, 0]] * 6
    assert kept.metadata["env_id"] == "text_envs/Toy-v0"
    if sys.version_info >= (3, 11):
        assert "6 of 12 episodes" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError) as nothing:
        collect("text_envs/Toy-v0", FailsLater(0, RuntimeError()), 2)
    assert len(nothing.value.partial_dataset) == 0  # type: ignore[attr-defined]


def test_a_failing_reward_model_loses_no_finished_episode() -> None:
    calls = []

    def moody(episodes: Any) -> Any:
        calls.append(len(episodes))
        if len(calls) == 3:
            raise ValueError("no more")
        return np.ones(len(episodes))

    with pytest.raises(text_envs.RewardModelError) as caught:
        collect(TokenVectorEnv(Toy(), num_envs=2, reward=moody), "expert", 8)
    assert caught.value.partial_dataset.returns.tolist() == [1.0] * 4  # type: ignore[attr-defined]


def test_a_progress_bar_counts_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    collect("text_envs/Toy-v0", "expert", 5, progress_bar=True)
    assert re.search(r"5/5 .*episode", capsys.readouterr().err)
    collect("text_envs/Toy-v0", "expert", 5)
    assert capsys.readouterr().err == ""


def test_torch_is_left_alone() -> None:
    import torch

    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    collect("text_envs/Toy-v0", "expert", 2)
    assert torch.equal(torch.rand(2), expected)
    code = (
        "import sys, text_envs.datasets as d; d.collect('text_envs/Toy-v0', 'mixed', 4);"
        "print(sorted({'torch', 'tqdm', 'minari', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("text_envs/Toy-v0", "expert", 0), ValueError, "n_episodes must be an integer of at"),
        (("text_envs/Toy-v0", "experts", 1), ValueError, "unknown policy 'experts'.*'expert'"),
        ((object(), "expert", 1), TypeError, "no text environment"),
        (("text_envs/Toy-v0", lambda obs: [0], 2), ValueError, r"returned .*shape \(1,\) for 2"),
        (("text_envs/Toy-v0", lambda obs: [0.5], 1), ValueError, "returned float64"),
        (("text_envs/Toy-v0", lambda obs: [3], 1), ValueError, r"chose 3 in row 0.*0\.\.2"),
        (("text_envs/Toy-v0", lambda obs: [[0.0] * 3], 1), ValueError, "sum to 3, not 1"),
        (("text_envs/Toy-v0", 7, 1), TypeError, "a policy must be a function"),
    ],
)
def test_bad_input(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        collect(*arguments)


@pytest.mark.parametrize("seed", [None, -1, 0.5])
def test_a_seed_that_is_none(seed: Any) -> None:
    with pytest.raises(ValueError, match=f"seed must be an integer of at least 0, got {seed}"):
        collect("text_envs/Toy-v0", "expert", 2, seed=seed)


def test_the_adversarial_set_comes_in_whole_games() -> None:
    for n in (10, 11.0, 0):
        with pytest.raises(ValueError, match=f"positive multiple of 11, .*, got {n}; nearest: 11"):
            datasets.recipe("wordle-adversarial", n)  # type: ignore[arg-type]


def test_arguments_of_an_environment_go_with_an_id() -> None:
    data = collect("text_envs/Maze-v0", "expert", 2, layout="u", num_envs=1)
    assert data.metadata["env_spec"]["kwargs"]["layout"] == "u"
    with pytest.raises(ValueError, match=r"\['layout', 'num_envs'\] go with an environment given"):
        collect(TokenVectorEnv(Toy()), "expert", 2, layout="u", num_envs=1)
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(TokenVectorEnv(Toy()))
    with pytest.raises(TypeError, match="pass env.unwrapped"):
        collect(wrapped, "expert", 2)
    with pytest.raises(TypeError, match="is recurrent"):
        collect("text_envs/Toy-v0", Recurrent(), 1)


class Recurrent:
    def predict(self, obs: Any, deterministic: bool = False) -> Any:
        return np.zeros(len(obs), dtype=np.int64), np.zeros(3)


def test_examples_in_docstrings_run() -> None:
    import doctest

    for name in ("collecting", "recipes"):
        module = sys.modules[f"text_envs.datasets.{name}"]
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert result.attempted and not result.failed


def test_public_names() -> None:
    assert sorted(datasets.__all__, key=str.lower) == sorted(set(datasets.__all__), key=str.lower)
    assert all(hasattr(datasets, name) for name in datasets.__all__)
