"""`make_sb3`: any environment of the suite as a `VecEnv` of Stable-Baselines3.

Importing this module imports Stable-Baselines3 and with it torch; the rest of the package does not.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv

from text_envs.envs.goal import GoalTokenVectorEnv
from text_envs.envs.goal_sb3 import GoalTokenVecEnv
from text_envs.envs.vec_env import TokenVecEnv
from text_envs.envs.vector import TokenVectorEnv

__all__ = ["TokenVecEnv", "make_sb3"]


def make_sb3(
    env: Any = "text_envs/Reviews-v0",
    num_envs: int = 16,
    *,
    seed: int | None = None,
    **kwargs: Any,
) -> VecEnv:
    """Return N rows of an environment as a Stable-Baselines3 `VecEnv`.

    Args:
        env: a registered id, a `TokenVectorEnv`, or anything `TokenVectorEnv` takes as a task.
        num_envs: the number of rows.
        seed: row i is seeded with `seed + i` at the next reset.
        **kwargs: arguments of the environment, as in `gymnasium.make_vec`.

    Raises:
        TypeError: a vector environment of another kind.

    >>> venv = make_sb3("text_envs/Toy-v0", num_envs=2, seed=0)
    >>> venv.reset().shape
    (2, 4)
    """
    native: Any
    if isinstance(env, TokenVectorEnv | GoalTokenVectorEnv):
        native = env
    elif isinstance(env, str) and "/" in env:
        made = gym.make_vec(
            env, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs
        )
        native = made.unwrapped
    elif isinstance(env, gym.vector.VectorEnv):
        raise TypeError(
            f"{type(env).__name__} is another vector environment; accepted: a TokenVectorEnv, as "
            "gymnasium.make_vec(id, vectorization_mode='vector_entry_point') makes it, or an id"
        )
    else:
        native = TokenVectorEnv(env, num_envs=num_envs, **kwargs)
    venv = _face(native)
    if seed is not None:
        venv.seed(seed)
    return venv


def _face(native: Any) -> VecEnv:
    if isinstance(native, GoalTokenVectorEnv):
        return GoalTokenVecEnv(native)
    return TokenVecEnv(native)
