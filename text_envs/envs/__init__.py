"""The faces of the engine, and the table of ids.

`TokenEnv`, one text at a time; `TokenVectorEnv`, many; both with goals; the same as a `VecEnv` of
Stable-Baselines3 (`sb3`, which needs torch). Ids name their tasks, so that none is imported before
it is made. Imports `core`, `render`, `rewards` and what stands below them, but no task.
"""

from text_envs.envs.goal import GoalTokenEnv, GoalTokenVectorEnv
from text_envs.envs.registration import list_ids, register, register_goal
from text_envs.envs.single import TokenEnv
from text_envs.envs.vector import TokenVectorEnv

__all__ = [
    "GoalTokenEnv",
    "GoalTokenVectorEnv",
    "TokenEnv",
    "TokenVectorEnv",
    "list_ids",
    "register",
    "register_goal",
]
