"""Goal-conditioned faces of a task: "write a correct answer" or "write a wrong one".

A text that failed at one goal has reached the other, so every episode teaches something once its
goal is replaced by what it achieved (hindsight). The observation is a dictionary after the
convention of goal-conditioned environments:

| key | space | content |
|---|---|---|
| `observation` | Box `(L,)` int64 | tokens, as in `TokenEnv`; the goal is not written into them |
| `achieved_goal` | Discrete(3) | `Goal.UNFINISHED` until the text has ended, then what it is |
| `desired_goal` | Discrete(3) | `Goal.WRONG` or `Goal.CORRECT` |

`compute_reward(achieved, desired, info)` needs nothing else, so a replay buffer may exchange goals
(Stable-Baselines3's `HerReplayBuffer`, strategy "final"). An episode ends as the text does, never
because of its goal: an exchanged goal leaves `terminated` right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from text_envs import render
from text_envs.core.goal_engine import Goal, GoalEngine, as_goals, compute_reward
from text_envs.envs.face import Face
from text_envs.envs.single import TokenEnv
from text_envs.envs.vector import AutoresetMode, TokenVectorEnv

__all__ = ["Goal", "GoalTokenEnv", "GoalTokenVectorEnv", "compute_reward"]


def _with_goals(box: spaces.Box) -> spaces.Dict:
    return spaces.Dict(
        {
            "observation": box,
            "achieved_goal": spaces.Discrete(len(Goal)),
            # As wide as the achieved goal, which takes its place in a replay buffer.
            "desired_goal": spaces.Discrete(len(Goal)),
        }
    )


def _refuse_shaping(kwargs: Mapping[str, Any]) -> None:
    """Refuse what `compute_reward` could not repeat for an exchanged goal."""
    if kwargs.get("shaping") is not None:
        raise ValueError(
            "a goal environment takes no shaping=: its reward must equal compute_reward(achieved, "
            "desired), which knows no tokens; use the id without Goal"
        )


class _GoalFace(Face):
    """What the single and the vector environment hand through from the one without goals."""

    _text: Any
    engine: GoalEngine

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Return the reward, see `goal.compute_reward`; no state takes part in it."""
        return compute_reward(achieved_goal, desired_goal, info)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which tokens may be written now."""
        masks: NDArray[np.bool_] = self._text.action_masks()
        return masks

    def get_state(self) -> dict[str, Any]:
        """Return everything that decides how rows go on, goals and generators included."""
        state: dict[str, Any] = self._text.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_state` returned."""
        self._text.set_state(state)

    def render(self) -> Any:
        """Return or print the text, as the environment without goals does."""
        return self._text.render()


class GoalTokenEnv(_GoalFace, gym.Env[dict[str, Any], np.int64]):
    """`TokenEnv` with a goal; see the module's description."""

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it as an instance variable
        "render_modes": render.MODES,
        "render_fps": 10,
    }

    def __init__(
        self,
        task: Any,
        *,
        goal: str | int | None = None,
        threshold: float = 0.5,
        reward: Any = None,
        reward_kwargs: Mapping[str, Any] | None = None,
        action_mask: bool = False,
        render_mode: str | None = None,
        **task_kwargs: Any,
    ) -> None:
        """Build the task and its judge.

        Args:
            task: a `Task`, a subclass, or `"module:Class"`.
            goal: "correct", "wrong" or its number; None draws it for each episode.
            threshold: a text is correct from this reward of the judge on.
            reward: the judge, as `text_envs.rewards.resolve` accepts it; None for the task's own.
            reward_kwargs: arguments of a judge given by name.
            action_mask: put an int8 `action_mask` into every info.
            render_mode: None, "ansi", "html", "human" or "rgb_array".
            **task_kwargs: `starts`, and arguments of the task.

        Raises:
            ValueError: `shaping`, or a task or judge that cannot be judged by a goal.
        """
        _refuse_shaping(task_kwargs)
        text = TokenEnv(
            task, reward=reward, reward_kwargs=reward_kwargs, action_mask=action_mask,
            render_mode=render_mode, **task_kwargs,
        )  # fmt: skip
        self._text, self.render_mode = text, render_mode
        self.engine = GoalEngine(text.task, text.reward_model, 1, goal=goal, threshold=threshold)
        self.engine.record, self.engine.starts = text.engine.record, text.engine.starts
        text.engine = self.engine
        self.observation_space = _with_goals(text.observation_space)  # type: ignore[arg-type]
        self.action_space = text.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: makes the following episodes and their goals repeatable.
            options: as in `TokenEnv.reset`, and `goal`: "correct", "wrong" or its number.

        Returns:
            The observation and the info.
        """
        options = dict(options or {})
        goal = options.pop("goal", None)
        goals = None if goal is None else as_goals(goal, 1)  # refused before anything is started
        tokens, info = self._text.reset(seed=seed, options=options)
        self._np_random, self._np_random_seed = self._text._np_random, self._text._np_random_seed
        if goals is not None:
            self.engine.set_goals(self.engine.all_rows, goals)
        return self._observe(tokens), info

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Write one token; errors as in `TokenEnv.step`."""
        tokens, reward, terminated, truncated, info = self._text.step(action)
        return self._observe(tokens), float(reward), terminated, truncated, info

    def _observe(self, tokens: NDArray[np.int64]) -> dict[str, Any]:
        goals = {name: goal[0] for name, goal in self.engine.goals().items()}
        return {"observation": tokens, **goals}


class GoalTokenVectorEnv(_GoalFace, gym.vector.VectorEnv[Any, Any, Any]):
    """`TokenVectorEnv` with a goal in each row; see the module's description.

    Row i behaves as a `GoalTokenEnv` seeded with `seed + i`. Infos are those of `TokenVectorEnv`;
    with `SAME_STEP`, each entry of `final_obs` is a dictionary.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - an instance replaces it by its own
        "render_modes": render.MODES,
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        task: Any,
        *,
        num_envs: int = 1,
        goal: str | int | None = None,
        threshold: float = 0.5,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the task, its judge and N rows.

        Args:
            task: a `Task`, a subclass, or `"module:Class"`.
            num_envs: the number of rows.
            goal: "correct", "wrong" or its number; None draws it for each episode.
            threshold: a text is correct from this reward of the judge on.
            max_episode_steps: an outer limit in agent tokens; reaching it leaves the text
                unfinished.
            **kwargs: further arguments of `TokenVectorEnv`, those of the task among them.

        Raises:
            ValueError: `shaping`, or a task or judge that cannot be judged by a goal.
        """
        _refuse_shaping(kwargs)
        text = TokenVectorEnv(
            task, num_envs=num_envs, max_episode_steps=max_episode_steps, **kwargs
        )
        self._text, self.num_envs, self.render_mode = text, text.num_envs, text.render_mode
        self.engine = GoalEngine(
            text.task, text.reward_model, num_envs,
            goal=goal, threshold=threshold, max_episode_steps=max_episode_steps,
        )  # fmt: skip
        self.engine.record, self.engine.starts = text.engine.record, text.engine.starts
        text.engine = self.engine
        self.metadata = text.metadata
        self.autoreset_mode = text.autoreset_mode
        self.single_observation_space = _with_goals(text.single_observation_space)  # type: ignore[arg-type]
        self.single_action_space = text.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = text.action_space

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start episodes, see `TokenVectorEnv.reset`.

        Args:
            seed: row i gets `seed + i`; or one seed a row.
            options: as there, and `goal`: one for all rows that are reset, or one for each.

        Returns:
            The observations, each `(N, ...)`, and the infos.
        """
        options = dict(options or {})
        goal, mask = options.pop("goal", None), options.get("reset_mask")
        rows = self.engine.all_rows if mask is None else np.flatnonzero(mask)
        goals = None if goal is None else as_goals(goal, len(rows))
        tokens, infos = self._text.reset(seed=seed, options=options)
        self._np_random, self._np_random_seed = self._text._np_random, self._text._np_random_seed
        if goals is not None:
            self.engine.set_goals(rows, goals)
        return {"observation": tokens, **self.engine.goals()}, infos

    def step(
        self, actions: Any
    ) -> tuple[dict[str, Any], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Write one token into every row; errors as in `TokenVectorEnv.step`."""
        tokens, rewards, terminated, truncated, infos = self._text.step(actions)
        if "final_obs" in infos:
            for row in np.flatnonzero(infos["_final_obs"]).tolist():
                achieved, desired = self.engine.last_goals[row].copy()
                infos["final_obs"][row] = {
                    "observation": infos["final_obs"][row],
                    "achieved_goal": achieved,
                    "desired_goal": desired,
                }
        observation = {"observation": tokens, **self.engine.goals()}
        return observation, rewards, terminated, truncated, infos
