"""The Stable-Baselines3 face of goal-conditioned rows, for its `HerReplayBuffer`.

Importing this module imports Stable-Baselines3 and with it torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from text_envs.core.goal_engine import as_goals, compute_reward
from text_envs.envs.goal import GoalTokenVectorEnv
from text_envs.envs.vec_env import TokenVecEnv

__all__ = ["GoalTokenVecEnv"]


class GoalTokenVecEnv(TokenVecEnv):
    """A `GoalTokenVectorEnv` with the conventions of Stable-Baselines3.

    Observations are dictionaries of arrays, and so is `terminal_observation` of one row; the rest
    is as in `TokenVecEnv`.
    """

    def __init__(self, env: GoalTokenVectorEnv) -> None:
        """Present `env`.

        Args:
            env: the native batch; its own autoreset mode is set aside.
        """
        super().__init__(env._text)
        self.engine = env.engine
        self.observation_space = env.single_observation_space

    def reset(self) -> Any:
        """Start an episode in every row; the option `goal` of a row fixes its goal."""
        goals = [options.pop("goal", None) for options in map(dict, self._options)]
        numbers = [None if goal is None else as_goals(goal, 1) for goal in goals]
        # One mapping that speaks of all rows stays one mapping.
        plain = {
            id(options): {key: value for key, value in options.items() if key != "goal"}
            for options in self._options
        }
        self._options = [plain[id(options)] for options in self._options]
        tokens = super().reset()
        for row, number in enumerate(numbers):
            if number is not None:
                self.engine.set_goals(self.engine.all_rows[row : row + 1], number)
        return {"observation": tokens, **self.engine.goals()}

    def step_wait(self) -> VecEnvStepReturn:
        """Write the tokens, see `TokenVecEnv.step_wait`."""
        tokens, rewards, dones, infos = super().step_wait()
        for row in np.flatnonzero(dones).tolist():
            achieved, desired = self.engine.last_goals[row].copy()
            infos[row]["terminal_observation"] = {
                "observation": infos[row]["terminal_observation"],
                "achieved_goal": achieved,
                "desired_goal": desired,
            }
        assert isinstance(tokens, np.ndarray)
        observation: dict[str, NDArray[Any]] = {"observation": tokens, **self.engine.goals()}
        return observation, rewards, dones, infos

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch; `compute_reward` speaks of a buffer's rows, not of these."""
        if method_name == "compute_reward":
            return [compute_reward(*args, **kwargs) for _ in self._get_indices(indices)]
        return super().env_method(method_name, *args, indices=indices, **kwargs)
