"""Reward models by object, function, name, model and module; called once with all finished rows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_envs import EpisodeBatch, RewardModelError, TokenVectorEnv, rewards
from text_envs.tasks.toy import Toy, ab_reward


def score_all(model: Any, *actions: list[int]) -> np.ndarray[Any, Any]:
    """Return the rewards of texts of Toy, each given by its actions."""
    env = TokenVectorEnv(Toy(), num_envs=len(actions), reward=model, autoreset_mode="DISABLED")
    env.reset(seed=0)
    return env.step(np.array([a[0] for a in actions]))[1]


def test_called_once_with_all_finished_rows() -> None:
    calls: list[list[str]] = []

    def model(episodes: EpisodeBatch) -> list[float]:
        calls.append(episodes.texts)
        return [float(len(calls))] * len(episodes)

    env = TokenVectorEnv(Toy(), num_envs=4, reward=model)
    env.reset(seed=0)
    env.step(np.array([0, 0, 1, 2]))
    _, paid, *_ = env.step(np.array([2, 2, 0, 0]))
    assert calls == [[""], ["a", "a"]] and paid.tolist() == [2.0, 2.0, 0.0, 0.0]


def test_length_constant_and_their_sum() -> None:
    env = gym.make("text_envs/Toy-v0", reward={"length": 2.0, "constant": -1.0})
    env.reset()
    env.step(0)
    _, reward, *_, info = env.step(2)
    assert reward == 1.0 and info["reward_terms"] == {"length": 2.0, "constant": -1.0}
    assert score_all("length", [2], [2]).tolist() == [0.0, 0.0]
    assert score_all(rewards.Length(target=2, scale=0.5), [2]).tolist() == [-1.0]


def test_arguments_of_a_named_reward() -> None:
    env = gym.make("text_envs/Toy-v0", reward="length", reward_kwargs={"target": 3})
    env.reset()
    assert env.step(2)[1] == -3.0
    assert gym.make(env.spec).unwrapped.reward_model.target == 3


def test_module_function_and_weighted_sum_of_objects() -> None:
    env = gym.make("text_envs/Toy-v0", reward="text_envs.tasks.toy:ab_reward")
    assert env.unwrapped.reward_model is ab_reward
    both = rewards.WeightedSum({"ab": (1.0, ab_reward), "short": (-0.1, rewards.Length())})
    env = gym.make("text_envs/Toy-v0", reward=both)
    env.reset()
    for action in (0, 1, 2):
        *_, info = env.step(action)
    assert info["reward_terms"] == {"ab": 1.5, "short": -0.2}


def test_components_without_names_are_numbered() -> None:
    env = gym.make("text_envs/Toy-v0", reward=lambda episodes: np.ones((len(episodes), 2)))
    env.reset()
    *_, info = env.step(2)
    assert info["reward_terms"] == {"component_0": 1.0, "component_1": 1.0}


def test_a_classifier_in_the_hub_format(classifier_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    spec = f"hf:{classifier_path}"
    kwargs = {"label": "NEGATIVE", "batch_size": 2, "device": "cpu", "include_prompt": False}
    model = rewards.resolve(spec, **kwargs)
    texts = ["a warm film", "a loud empty picture that never ends", "", "sharp"]
    tokenizer = AutoTokenizer.from_pretrained(classifier_path)
    network = AutoModelForSequenceClassification.from_pretrained(classifier_path).eval()
    with torch.no_grad():
        alone = [
            network(**tokenizer(text or tokenizer.eos_token, return_tensors="pt")).logits
            for text in texts
        ]
    expected = torch.cat(alone).softmax(-1)[:, 0].numpy()
    assert np.allclose(model.score_texts(texts), expected, atol=1e-5)
    assert copy.deepcopy(model) is model
    env = gym.make("text_envs/Toy-v0", reward=spec, reward_kwargs=kwargs)
    env.reset()
    assert 0.0 < env.step(2)[1] < 1.0
    with pytest.raises(ValueError, match="Did you mean 'POSITIVE'"):
        rewards.resolve(spec, label="POSITIV")
    with pytest.raises(ValueError, match="Did you mean 'logit'"):
        rewards.resolve(spec, output="logits")


def test_the_judge_knows_praise_from_blame() -> None:
    judge = rewards.resolve("vader")
    good, bad = judge.score_texts(["a great, wonderful film", "a terrible, boring mess"])
    assert good > 0.5 and bad < -0.5
    assert copy.deepcopy(judge) is judge


def test_a_reward_that_float32_cannot_hold_is_refused() -> None:
    env = gym.make("text_envs/Toy-v0", reward=lambda episodes: np.full(len(episodes), 1e300))
    env.reset(seed=0)
    with pytest.raises(RewardModelError, match="returned 1e.300 .*finite, also as float32"):
        env.step(2)
