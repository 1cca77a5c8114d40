"""Every registered id keeps the contract of `text_envs.testing.envs`."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import pytest
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import text_envs
from text_envs.testing.envs import CHECKS, check_env_id

# Gymnasium's checkers speak through warnings; those about style, not about faults, are named here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*"),
    pytest.mark.filterwarnings("ignore:.*Box observation space.*"),
]


GOAL_IDS = [  # their contract stands in test_goal.py
    env_id for env_id in text_envs.list_ids() if env_id.endswith("Goal-v0")
]
FLAT_IDS = [env_id for env_id in text_envs.list_ids() if env_id not in GOAL_IDS]


@pytest.mark.parametrize("env_id", FLAT_IDS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(env_id: str, check: Callable[[str], None]) -> None:
    check(env_id)


@pytest.mark.parametrize("env_id", text_envs.list_ids())
def test_stable_baselines3_check(env_id: str) -> None:
    # The checker takes attributes from the environment itself, which goals need and wrappers hide.
    sb3_check_env(gym.make(env_id).unwrapped if env_id in GOAL_IDS else gym.make(env_id))


def test_namespace_prefix_and_all_checks_at_once() -> None:
    assert gym.make("text_envs:text_envs/Toy-v0").spec.id == "text_envs/Toy-v0"
    check_env_id("text_envs/Toy-v0", max_tokens=5)


@pytest.mark.parametrize("env_id", FLAT_IDS)
def test_card_names_what_the_environment_does(env_id: str) -> None:
    env = gym.make(env_id)
    card = type(env.unwrapped.task).__doc__
    headings = [line.strip() for line in card.splitlines() if line.strip().startswith("## ")]
    assert headings == [
        "## Description", "## Action Space", "## Observation Space", "## Rewards",
        "## Starting State", "## Episode End", "## Information", "## Arguments",
        "## Version History", "## References",
    ]  # fmt: skip
    assert f"({env.observation_space.shape[0]},)" in card
    env.reset(seed=0)
    terminated = False
    while not terminated:
        *_, terminated, _, info = env.step(env.unwrapped.tokenizer.eos_id)
    for key in info:
        assert f"`{key}`" in card, f"info key {key!r} is not in the card"
