"""From whatever stands for an environment to the parts that decide its tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import NormalizeReward
from gymnasium.wrappers.vector import NormalizeReward as VectorNormalizeReward

from text_envs.core.engine import TokenEngine
from text_envs.core.goal_engine import GoalEngine
from text_envs.core.plugins import Shaping
from text_envs.core.task import Task
from text_envs.envs.configure import build
from text_envs.rewards import RewardModel

__all__ = ["Source", "find_source"]

_REWARD_WRAPPERS = (
    gym.RewardWrapper,
    gym.vector.VectorRewardWrapper,
    NormalizeReward,
    VectorNormalizeReward,
)


@dataclass(frozen=True)
class Source:
    """What an environment consists of, as far as its tree is concerned."""

    task: Task
    reward_model: RewardModel | None
    shaping: Shaping | None


def find_source(env: Any) -> Source:
    """Return the parts of an environment.

    Args:
        env: an id, a `TokenEnv` or `TokenVectorEnv`, wrapped or not, a `VecEnv` of
            Stable-Baselines3 around one, or a `Task`, which brings its default reward.

    Raises:
        TypeError: it is none of these.
        ValueError: a wrapper changes the rewards, or the observations carry goals.
    """
    if isinstance(env, Task):
        task, reward_model = build(env, None, None, {})
        return Source(task, reward_model, None)
    if isinstance(env, str):
        env = gym.make(env)
    for layer in _layers(env):
        if isinstance(layer, _REWARD_WRAPPERS) or getattr(layer, "norm_reward", False):
            raise ValueError(
                f"{type(layer).__name__} changes the rewards, which are read from the "
                "environment below it; pass that one, with a reward model that does the same"
            )
    engine = _engine(env)
    if not isinstance(engine, TokenEngine):
        raise TypeError(
            "env must be an id, a Task, or an environment of text_envs (wrapped or as a VecEnv), "
            f"got {type(env).__name__}"
        )
    if isinstance(engine, GoalEngine):
        raise ValueError(
            f"{type(env).__name__} shows goals beside the text; pass the plain environment of "
            f"{type(engine.task).__name__}"
        )
    return Source(engine.task, engine.reward_model, engine.shaping)


def _layers(env: Any) -> Iterator[Any]:
    """Yield an environment and what it is wrapped around."""
    while env is not None:
        yield env
        inside = vars(env) if hasattr(env, "__dict__") else {}
        env = inside.get("env", inside.get("venv"))


def _engine(env: Any) -> Any:
    native = getattr(env, "unwrapped", env)
    if hasattr(native, "engine"):
        return native.engine
    try:  # a batch of single environments, or a batch of Stable-Baselines3
        return env.get_attr("engine")[0]
    except (AttributeError, IndexError, TypeError):
        return None
