"""The Stable-Baselines3 face: the same episodes as the native batch, with its conventions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from helpers import Echo
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import text_envs
from text_envs import RewardModelError


def test_agrees_with_a_loop_over_single_environments() -> None:
    native = text_envs.make_sb3("text_envs/Toy-v0", num_envs=3, seed=7)
    looped = make_vec_env("text_envs/Toy-v0", n_envs=3, seed=7)
    assert np.array_equal(native.reset(), looped.reset())
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.integers(3, size=3)
        one, other = native.step(actions), looped.step(actions)
        for a, b in zip(one[:3], other[:3], strict=True):
            assert np.array_equal(a, b) and a.dtype == b.dtype
        for info, expected in zip(one[3], other[3], strict=True):
            assert ("terminal_observation" in info) == ("terminal_observation" in expected)
            if "terminal_observation" in info:
                for key in ("terminal_observation", "roles"):
                    assert np.array_equal(info[key], expected[key])
                for key in ("TimeLimit.truncated", "finish_reason", "text", "reward_terms"):
                    assert info[key] == expected[key]
                for key in ("r", "l"):
                    assert info["episode"][key] == expected["episode"][key]


def test_returns_and_lengths_of_dialogues() -> None:
    venv = text_envs.make_sb3(Echo(), num_envs=2, seed=0)
    venv.reset()
    for words in ([1, 2], [4, 4], [2, 1], [4, 4]):
        *_, infos = venv.step(np.array(words))
    assert infos[0]["episode"]["r"] == -1.0 and infos[0]["episode"]["l"] == 4
    assert infos[0]["terminal_observation"].tolist()[4:6] == [1, 4]
    assert infos[1] == {"reward_terms": {"task": -1.0}}


def test_truncation_is_told_apart() -> None:
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=2, max_episode_steps=2)
    venv.reset()
    venv.step(np.array([0, 0]))
    *_, dones, infos = venv.step(np.array([0, 2]))
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False]


def test_seed_options_and_attributes() -> None:
    venv = text_envs.make_sb3(Echo(), num_envs=8)
    venv.seed(3)
    venv.reset()
    first = [info["example_index"] for info in venv.reset_infos]
    venv.seed(3)
    venv.reset()
    assert first == [info["example_index"] for info in venv.reset_infos] and len(set(first)) == 2
    venv.set_options({"index": 1})
    venv.reset()
    assert {info["example_index"] for info in venv.reset_infos} == {1}
    assert venv.get_attr("tokenizer")[0] is venv.env.tokenizer
    assert np.stack(venv.env_method("action_masks")).shape == (8, 5)
    assert venv.env_is_wrapped(Monitor) == [True] * 8
    with pytest.raises(ValueError, match="cannot set"):
        venv.set_attr("reward_model", "length", indices=[0])
    venv.set_attr("reward_model", "length")
    assert venv.env.reward_model.name == "length"


def test_a_failed_step_can_be_repeated() -> None:
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=2, reward=lambda e: [np.inf] * len(e))
    venv.reset()
    with pytest.raises(RewardModelError, match="finite"):
        venv.step(np.array([0, 2]))
    venv.set_attr("reward_model", "constant")
    _, paid, dones, _ = venv.step(np.array([0, 2]))
    assert paid.tolist() == [0.0, 1.0] and dones.tolist() == [False, True]


def test_other_vector_environments_are_refused() -> None:
    env = gym.make_vec("text_envs/Toy-v0", num_envs=2, vectorization_mode="sync")
    with pytest.raises(TypeError, match="SyncVectorEnv is another vector env.*vector_entry_point"):
        text_envs.make_sb3(env)
    env.close()


def test_a_stock_agent_trains_and_is_evaluated() -> None:
    """An off-the-shelf MLP agent needs nothing of ours but the environment."""
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8, seed=0)
    model = A2C("MlpPolicy", venv, n_steps=3, gamma=1.0, seed=0)
    model.learn(4000)
    mean, _ = evaluate_policy(model, venv, n_eval_episodes=20)
    assert mean > 0.9
    mean, _ = evaluate_policy(model, Monitor(gym.make("text_envs/Toy-v0")), n_eval_episodes=5)
    assert mean > 0.9
