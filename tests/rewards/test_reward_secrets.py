"""Keys are refused as arguments, in any spelling and depth, and never repeated."""

from __future__ import annotations

import traceback
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

import text_envs
from text_envs.rewards import Calibrated, resolve
from text_envs.rewards.judge import Judge
from text_envs.rewards.secrets import refuse_secrets

VALUE = "8f1e0c-very-private"
HOST = {"model": "m", "base_url": "http://host"}


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__dict__)


@pytest.mark.parametrize(
    "extra",
    [
        {"api_key": VALUE}, {"apiKey": VALUE}, {"API-KEY": VALUE}, {"openai_api_key": VALUE},
        {"x-api-key": VALUE}, {"token": VALUE}, {"hf_token": VALUE}, {"access_token": VALUE},
        {"use_auth_token": VALUE}, {"password": VALUE}, {"secret": VALUE}, {"auth": ("me", VALUE)},
        {"client_secret": VALUE}, {"credentials": {"user": VALUE}}, {"token": VALUE.encode()},
        {"headers": {"Authorization": f"Bearer {VALUE}"}}, {"headers": [["X", f"Bearer {VALUE}"]]},
        {"headers": {"Cookie": VALUE}}, {"options": {"extra": {"api_key": VALUE}}},
        {"anything": f"sk-{VALUE}"}, {"base_url": f"http://me:{VALUE}@host"},
        {f"sk-{VALUE}": 1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("reward", ["judge", "remote", "length", "text_envs.tasks.toy:ab_reward"])
def test_a_key_is_refused_without_repeating_it(reward: str, extra: dict[str, Any]) -> None:
    kwargs = {**HOST, **extra}
    nested = {"reward": reward, "reward_kwargs": kwargs}
    for make in (
        lambda: resolve(reward, **kwargs),
        lambda: resolve(nested),
        lambda: resolve({"part": [0.5, nested]}),
        lambda: resolve("cache", model=nested),
        lambda: resolve("clip", model={"part": [1.0, {"reward": "cache", "reward_kwargs": {
            "model": nested}}]}, high=1),
        lambda: Calibrated([nested], {0: "a"}),
        lambda: gym.make("text_envs/Toy-v0", reward=reward, reward_kwargs=kwargs),
        lambda: gym.make("text_envs/Toy-v0", reward=nested),
        lambda: gym.make_vec("text_envs/Toy-v0", num_envs=2, reward=reward, reward_kwargs=kwargs),
        lambda: text_envs.TokenVectorEnv(
            "text_envs.tasks.toy:Toy", num_envs=1, reward=reward, reward_kwargs=kwargs
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="api_key_env='OPENAI_API_KEY'.*HF_TOKEN") as caught:
            make()
        assert VALUE not in shown(caught.value)


def test_classes_refuse_keys_too() -> None:
    with pytest.raises(ValueError, match=r"'options'\['api_key'\] holds a key") as caught:
        Judge(**HOST, options={"api_key": VALUE})
    assert VALUE not in shown(caught.value)


@pytest.mark.parametrize(
    "harmless",
    [
        {"api_key_env": "OPENAI_API_KEY"}, {"max_tokens": 5}, {"options": {"max_tokens": 5}},
        {"eos_token": "</s>"}, {"pad_token": "<pad>"}, {"token": 7}, {"tokenizer": "reviews"},
        {"key": None}, {"keyword": "film"}, {"template": "Is it token ring? {text}"},
        {"system": "You hold the key to good taste."}, {"authors": ["A"]}, {"secret_path": "/x"},
        {"pattern": r"key: \S+"}, {"url": "http://host:80/score"}, {"demonstrations": {0: "a b"}},
        {"key": "summary"}, {"demonstrations": {"a secret": "basic instinct"}},
    ],
)  # fmt: skip
def test_other_arguments_pass(harmless: dict[str, Any]) -> None:
    refuse_secrets(harmless)


@given(
    path=st.lists(st.sampled_from(["a", "headers", "options", "model"]), max_size=4),
    lists=st.booleans(),
    name=st.sampled_from(["api_key", "ApiKey", "token", "Authorization", "password"]),
)
def test_at_any_depth(path: list[str], lists: bool, name: str) -> None:
    spec: Any = {name: VALUE}
    for step in path:
        spec = {step: [spec] if lists else spec}
    with pytest.raises(ValueError, match="never an argument") as caught:
        refuse_secrets(spec)
    assert VALUE not in str(caught.value)
