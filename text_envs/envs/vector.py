"""`TokenVectorEnv`: many rows stepped by array operations, with Gymnasium's vector conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from text_envs import render
from text_envs.core.engine import Outcome, TokenEngine
from text_envs.core.plugins import Shaping, Starts
from text_envs.core.starts import start
from text_envs.core.state import capture, restore
from text_envs.envs.configure import build
from text_envs.envs.face import Face, unchanged_if_refused
from text_envs.envs.infos import outcome_infos, put, start_infos
from text_envs.envs.spaces import single_spaces
from text_envs.episodes.errors import suggest

try:
    from gymnasium.vector import AutoresetMode
except ImportError:  # Gymnasium 1.0 has only the behaviour that later became NEXT_STEP
    from enum import Enum

    class AutoresetMode(Enum):  # type: ignore[no-redef]
        """When a finished row starts again."""

        NEXT_STEP = "NextStep"
        SAME_STEP = "SameStep"
        DISABLED = "Disabled"


__all__ = ["AutoresetMode", "TokenVectorEnv"]

Array = NDArray[Any]


class TokenVectorEnv(Face, gym.vector.VectorEnv[Array, Array, Array]):
    """N texts written at once; row i behaves as a `TokenEnv` seeded with `seed + i`.

    The reward model is called once per step with all rows that have just finished. What happens
    to a finished row is the autoreset mode's decision: `NEXT_STEP` resets it at the next step,
    whose action for it is ignored; `SAME_STEP` resets it at once and leaves the last observation
    and info in `final_obs` and `final_info`; `DISABLED` waits for
    `reset(options={"reset_mask": ...})`.

    Infos follow Gymnasium: an array over the rows under `key`, and under `_key` which rows it
    speaks of. The keys are those of `TokenEnv`, the same at every step; `_finish_reason`, `_text`
    and `_roles` tell which rows have just ended.
    """

    metadata: dict[str, Any] = {
        "render_modes": render.MODES,
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        task: Any,
        *,
        num_envs: int = 1,
        reward: Any = None,
        reward_kwargs: Mapping[str, Any] | None = None,
        action_mask: bool = False,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        shaping: Shaping | None = None,
        starts: Starts | None = None,
        **task_kwargs: Any,
    ) -> None:
        """Build the task, its reward model and N rows.

        Args:
            task: a `Task`, a subclass, or `"module:Class"`.
            num_envs: the number of rows, at least 1.
            reward: what `text_envs.rewards.resolve` accepts; None for the task's own.
            reward_kwargs: arguments of a reward model given by name.
            action_mask: put an int8 `action_mask` `(N, num_actions)` into every info. It is
                read-only: all rows are one row of memory, which makes it cheap at 50,000 actions.
            render_mode: None, "ansi", "html", "human" or "rgb_array", see `text_envs.render`.
            autoreset_mode: one of Gymnasium's modes, or its name.
            max_episode_steps: an outer limit in agent tokens; reaching it truncates, unpaid.
            shaping: pays for every token, see `text_envs.core.plugins`.
            starts: writes the first tokens of an episode, see `text_envs.core.plugins`.
            **task_kwargs: arguments of the task, such as `dataset`, `tokenizer`, `max_tokens`.
        """
        if not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ValueError(f"num_envs must be an integer of at least 1, got {num_envs!r}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps!r}")
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"unknown render_mode {render_mode!r}.{suggest(render_mode, modes)}")
        self.render_mode = render_mode
        self.num_envs = int(num_envs)
        self.autoreset_mode = _as_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        built, reward_model = build(task, reward, reward_kwargs, task_kwargs)
        self.engine = TokenEngine(
            built,
            reward_model,
            self.num_envs,
            shaping=shaping,
            starts=starts,
            max_episode_steps=max_episode_steps,
        )
        if render_mode is not None:
            self._start_record()
        self.single_observation_space, self.single_action_space = single_spaces(built)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._with_mask = action_mask
        self._num_actions = np.uint64(built.tokenizer.num_actions)

    # -- reset ---------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode in every row, or in the rows of `options["reset_mask"]`.

        Args:
            seed: row i gets `seed + i`; or one seed a row.
            options: `index`, `group_size`, `prefix`, `state` (see `core.starts.start`) and
                `reset_mask`, boolean `(N,)`. Groups last until the next reset of their rows.

        Returns:
            The observations `(N, L)` and the infos: `example_index`, and with a start plug-in
            `prefix_length`, the tokens it wrote.
        """
        options = dict(options or {})
        rows = self._masked_rows(options.pop("reset_mask", None))
        seeds = self._seeds(seed)
        with unchanged_if_refused(self):
            # The environment's own generator is kept for Gymnasium's API; rows draw from theirs.
            super().reset(seed=seeds[0])
            self._seed_rows(seeds, rows)
            start(self.engine, rows, options)
        infos = start_infos(self.engine, rows)
        self._add_mask(infos)
        if self.render_mode == "human":
            self.render()
        return self.engine.tokens.copy(), infos

    def _seeds(self, seed: Any) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + row for row in range(self.num_envs)]
        if isinstance(seed, str) or not hasattr(seed, "__len__") or len(seed) != self.num_envs:
            raise ValueError(f"seed must be an integer or {self.num_envs} of them, got {seed!r}")
        for one in seed:
            whole = isinstance(one, int | np.integer) and not isinstance(one, bool) and one >= 0
            if one is not None and not whole:
                raise ValueError(f"seed must be None or an integer of at least 0, got {one!r}")
        return [None if one is None else int(one) for one in seed]

    def _seed_rows(self, seeds: Sequence[int | None], rows: NDArray[np.int64]) -> None:
        for row in rows.tolist():
            if (seed := seeds[row]) is not None:
                self.engine.set_rng(row, seeding.np_random(seed)[0])

    def _masked_rows(self, mask: Any) -> NDArray[np.int64]:
        if mask is None:
            return self.engine.all_rows
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(
                "options['reset_mask'] must be a boolean numpy array, got "
                f"{mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__}"
            )
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have shape ({self.num_envs},) and at least one True, "
                f"got shape {mask.shape} with {int(mask.sum())} True"
            )
        return np.flatnonzero(mask)

    # -- step ----------------------------------------------------------------------------------

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Write one token into every row.

        Args:
            actions: `(N,)` integers.

        Returns:
            Observations `(N, L)`, rewards `(N,)`, terminated `(N,)`, truncated `(N,)`, infos.

        Raises:
            RuntimeError: before the first reset, or on a finished row in `DISABLED` mode.
            ValueError: actions of another shape or type, or out of range.
            RewardModelError: the reward model failed; the step was undone and can be repeated.
            Exception: what a start plug-in raised within the step before, which was completed;
                nothing has been done in this one.
        """
        engine = self.engine
        engine.raise_failure()
        ids = self._checked(actions)
        if engine.running.all():
            restarting = None
            outcome = engine.advance(ids)
        else:
            restarting = self._finished_rows()
            going_on = np.flatnonzero(engine.running)
            outcome = engine.advance(ids[going_on], going_on)
            # Only after the step has succeeded: a failed one must leave nothing behind.
            engine.restart(restarting)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos = self._same_step_infos(outcome)
        else:
            infos = outcome_infos(engine, outcome)
            if restarting is not None:
                infos["example_index"] = engine.example_index.copy()
                if engine.starts is not None:
                    started = start_infos(engine, restarting)
                    put(infos, "prefix_length", started["prefix_length"], started["_prefix_length"])
        self._add_mask(infos)
        if self.render_mode == "human":
            self.render()
        return (
            engine.tokens.copy(),
            outcome.rewards,
            outcome.terminated,
            outcome.truncated,
            infos,
        )

    def _checked(self, actions: Any) -> NDArray[np.int64]:
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be {self.num_envs} integers, "
                f"got {array.dtype} of shape {array.shape}"
            )
        ids = array.astype(np.int64, copy=False)
        # Seen as unsigned, a negative id is huge: one comparison checks both ends.
        if (ids.view(np.uint64) >= self._num_actions).any():
            row = int(np.flatnonzero((ids < 0) | (ids >= int(self._num_actions)))[0])
            raise ValueError(
                f"action {ids[row]} of row {row} is out of range; "
                f"accepted: 0..{int(self._num_actions) - 1}"
            )
        return ids

    def _finished_rows(self) -> NDArray[np.int64]:
        finished = np.flatnonzero(~self.engine.running)
        if (self.engine.example_index[finished] < 0).any():
            raise RuntimeError("step() before reset(); call reset() first")
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            raise RuntimeError(
                f"row {finished[0]} has finished; with autoreset_mode {self.autoreset_mode.name} "
                "it must be reset with reset(options={'reset_mask': ...}) before the next step"
            )
        return finished

    def _same_step_infos(self, outcome: Outcome) -> dict[str, Any]:
        """Return the infos of a step whose ended rows begin anew; what ended is `final_info`."""
        engine, rows = self.engine, outcome.rows
        infos = outcome_infos(engine, outcome)
        if outcome.episodes is None:
            return infos
        final_info, ended = infos, infos["_text"]
        self._add_mask(final_info)
        final_obs = np.empty(engine.num_envs, dtype=object)
        for row, tokens in zip(rows.tolist(), outcome.episodes.tokens, strict=True):
            final_obs[row] = tokens.copy()
        engine.restart(rows)
        infos = start_infos(engine, rows)
        infos["_example_index"] = np.ones(engine.num_envs, dtype=bool)
        for key in ("reward_terms", "_reward_terms"):  # of the step, also where it ended a text
            infos[key] = final_info[key]
        put(infos, "final_obs", final_obs, ended.copy())
        put(infos, "final_info", final_info, ended.copy())
        return infos

    def _add_mask(self, infos: dict[str, Any]) -> None:
        if self._with_mask:
            everywhere = np.ones(self.num_envs, dtype=bool)
            put(infos, "action_mask", self.engine.mask_of_rows(), everywhere)

    # -- the rest of the face ------------------------------------------------------------------

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which tokens each row may write now, `(N, num_actions)`."""
        return self.engine.action_masks()

    def get_state(self) -> dict[str, Any]:
        """Return everything that decides how the rows go on, the generators included."""
        return capture(self.engine)

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            ValueError: the state does not fit this environment.
        """
        restore(self.engine, state)

    def render(self) -> Any:
        """Return a picture of every row, see `text_envs.render`; `html`: one page of all rows."""
        return self._pictures("make_vec")


def _as_mode(mode: AutoresetMode | str) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    names = {m.name.lower(): m for m in AutoresetMode}
    names |= {m.value.lower(): m for m in AutoresetMode}
    found = names.get(str(mode).lower())
    if found is None:
        accepted = [m.name for m in AutoresetMode]
        raise ValueError(f"unknown autoreset_mode {mode!r}.{suggest(str(mode), accepted)}")
    return found
