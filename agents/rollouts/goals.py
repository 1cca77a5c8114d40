"""Roll-outs in goal-conditioned environments: tokens as arrays, goals beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

__all__ = ["GoalsAside", "Questions", "inner", "single_space"]


class GoalsAside(VecEnvWrapper):
    """A goal-conditioned `VecEnv` that shows tokens only, as its counterpart without goals does.

    All rows are asked for the same goal. What each text has reached comes in the info of its end,
    as `achieved_goal` beside `desired_goal`.

    Args:
        venv: rows with dictionary observations.
        goal: what to ask for, as the environment's reset option `goal` accepts it.
    """

    def __init__(self, venv: VecEnv, goal: Any = "correct") -> None:
        space = venv.observation_space
        if not isinstance(space, spaces.Dict) or "observation" not in space.spaces:
            raise ValueError(f"no goal-conditioned environment: its observations are {space}")
        super().__init__(venv, observation_space=space["observation"])
        self.goal = goal
        self.set_options()

    def set_options(self, options: Any = None) -> None:
        """Remember options of the next reset, one mapping for all rows or one for each."""
        rows: Sequence[Any] = (
            options if isinstance(options, list) else [options or {}] * self.num_envs
        )
        self.venv.set_options([{**row, "goal": self.goal} for row in rows])

    def seed(self, seed: int | None = None) -> Any:
        """Seed the rows at the next reset."""
        return self.venv.seed(seed)

    def reset(self) -> NDArray[np.int64]:
        """Start an episode in every row; return the tokens `(N, L)`."""
        observation: Any = self.venv.reset()
        self.set_options()
        tokens: NDArray[np.int64] = observation["observation"]
        return tokens

    def step_wait(self) -> VecEnvStepReturn:
        """Return tokens `(N, L)`, rewards, dones and infos."""
        observation, rewards, dones, infos = self.venv.step_wait()
        for row in np.flatnonzero(dones).tolist():
            final = infos[row]["terminal_observation"]
            infos[row]["terminal_observation"] = final["observation"]
            for name in ("achieved_goal", "desired_goal"):
                infos[row][name] = int(final[name])
        return observation["observation"], rewards, dones, infos  # type: ignore[call-overload]


class Questions:
    """Deals out the questions of a task: all of them in random order before any comes again.

    Draws from numpy's global generator, which Stable-Baselines3 seeds.

    Attributes:
        waiting: those still to come in this round, in their order.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.waiting: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def next(self, count: int) -> NDArray[np.int64]:
        """Return the next `count` questions."""
        while len(self.waiting) < count:
            self.waiting = np.concatenate([self.waiting, np.random.permutation(self.count)])
        dealt, self.waiting = np.split(self.waiting, [count])
        return dealt


def inner(env: Any, name: str) -> Any:
    """Return an attribute of the innermost environment.

    Raises:
        ValueError: there is none.
    """
    try:
        if isinstance(env, VecEnv):
            return env.get_attr(name)[0]
        return getattr(env.unwrapped, name)
    except AttributeError as error:
        raise ValueError(
            f"{type(env).__name__} has no {name}; accepted: environments of text_envs"
        ) from error


def single_space(env: Any) -> spaces.Space[Any]:
    """Return the observation space of one row."""
    space: spaces.Space[Any] = getattr(env, "single_observation_space", env.observation_space)
    return space
