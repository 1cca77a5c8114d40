"""`TokenEnv`: the single environment, a batch of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from text_envs import render
from text_envs.core.engine import TokenEngine
from text_envs.core.plugins import Shaping, Starts
from text_envs.core.starts import start
from text_envs.core.state import capture, restore
from text_envs.envs.configure import build
from text_envs.envs.face import Face, unchanged_if_refused
from text_envs.envs.infos import row_info
from text_envs.envs.spaces import single_spaces
from text_envs.episodes.errors import suggest

__all__ = ["TokenEnv"]


class TokenEnv(Face, gym.Env[NDArray[np.int64], np.int64]):
    """Writing text token by token; one episode is one text, or one dialogue.

    The observation is one flat array: the prompt left-padded into the first `prompt_length`
    columns, everything generated appended after it, the rest padding. The action is the next
    token. `terminated` covers the end of the text and the length limit alike, because the limit
    belongs to the task; `truncated` is left to outer limits such as `TimeLimit`.

    Every `info`, that of a reset too, has the same keys: `example_index`; `reward_terms`, the
    ledger whose values sum to the reward; and, empty until the end, `finish_reason`, `text` and
    `roles`, who wrote each column. See `envs.infos`.
    """

    metadata: dict[str, Any] = {
        "render_modes": render.MODES,
        "render_fps": 10,
    }

    def __init__(
        self,
        task: Any,
        *,
        reward: Any = None,
        reward_kwargs: Mapping[str, Any] | None = None,
        action_mask: bool = False,
        render_mode: str | None = None,
        shaping: Shaping | None = None,
        starts: Starts | None = None,
        **task_kwargs: Any,
    ) -> None:
        """Build the task and its reward model.

        Args:
            task: a `Task`, a subclass, or `"module:Class"`.
            reward: what `text_envs.rewards.resolve` accepts; None for the task's own.
            reward_kwargs: arguments of a reward model given by name.
            action_mask: put an int8 `action_mask` into every info.
            render_mode: None, "ansi", "html", "human" or "rgb_array", see `text_envs.render`.
            shaping: pays for every token, see `text_envs.core.plugins`.
            starts: writes the first tokens of an episode, see `text_envs.core.plugins`.
            **task_kwargs: arguments of the task, such as `dataset`, `tokenizer`, `max_tokens`.
        """
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"unknown render_mode {render_mode!r}.{suggest(render_mode, modes)}")
        self.render_mode = render_mode
        built, reward_model = build(task, reward, reward_kwargs, task_kwargs)
        self.engine = TokenEngine(built, reward_model, 1, shaping=shaping, starts=starts)
        if render_mode is not None:
            self._start_record()
        self.observation_space, self.action_space = single_spaces(built)  # type: ignore[assignment]
        self._with_mask = action_mask
        self._num_actions = built.tokenizer.num_actions

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: makes the following episodes repeatable.
            options: `index`, an example; `prefix`, tokens already generated; `state`, a saved
                state to continue from.

        Returns:
            The observation `(L,)` and the info: `example_index`, and with a start plug-in
            `prefix_length`, the tokens it wrote.
        """
        with unchanged_if_refused(self):
            super().reset(seed=seed)
            if self.engine.rngs[0] is not self.np_random:
                self.engine.set_rng(0, self.np_random)
            start(self.engine, self.engine.all_rows, options)
        info = row_info(self.engine)
        if self.engine.starts is not None:
            info["prefix_length"] = int(self.engine.prefix_lengths(self.engine.all_rows)[0])
        self._finish_info(info)
        if self.render_mode == "human":
            self.render()
        return self.engine.tokens[0].copy(), info

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.int64], SupportsFloat, bool, bool, dict[str, Any]]:
        """Write one token.

        Raises:
            RuntimeError: no episode is running.
            ValueError: the action is not in the action space.
            RewardModelError: the reward model failed; the step was undone and can be repeated.
        """
        engine = self.engine
        if not engine.running[0]:
            raise RuntimeError(
                "step() before reset(), or after the end of the episode; call reset()"
            )
        token = self._checked(action)
        if engine.write_one(token):
            reward, terminated = 0.0, False
            info = row_info(engine)
        else:
            outcome = engine.advance(np.array([token], dtype=np.int64))
            reward, terminated = float(outcome.rewards[0]), bool(outcome.terminated[0])
            info = row_info(engine, outcome)
        self._finish_info(info)
        if self.render_mode == "human":
            self.render()
        return engine.tokens[0].copy(), reward, terminated, False, info

    def _checked(self, action: Any) -> int:
        if isinstance(action, np.ndarray) and action.ndim == 0:
            action = action[()]
        if not isinstance(action, int | np.integer) or isinstance(action, bool):
            raise ValueError(f"action must be an integer, got {type(action).__name__} {action!r}")
        if not 0 <= action < self._num_actions:
            raise ValueError(
                f"action {action} is out of range; accepted: 0..{self._num_actions - 1}"
            )
        return int(action)

    def _finish_info(self, info: dict[str, Any]) -> None:
        if self._with_mask:
            # A copy: Gymnasium's checker refuses an array that two infos share.
            info["action_mask"] = self.engine.allowed.copy()

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which tokens may be written now, `(num_actions,)`, as sb3-contrib asks for it."""
        masks: NDArray[np.bool_] = self.engine.allowed.astype(np.bool_)
        return masks

    def get_state(self) -> dict[str, Any]:
        """Return everything that decides how the episode goes on, the generator included."""
        return capture(self.engine)

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            ValueError: the state does not fit this environment.
        """
        restore(self.engine, state)
        self._np_random = self.engine.rngs[0]

    def render(self) -> Any:
        """Return a picture of the text so far, see `text_envs.render`, or print it (`human`)."""
        pictures = self._pictures("make")
        return pictures[0] if isinstance(pictures, tuple) else pictures
