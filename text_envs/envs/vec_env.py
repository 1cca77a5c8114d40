"""The Stable-Baselines3 face: a `VecEnv` over the native batch, without a loop over environments.

Importing this module imports Stable-Baselines3 and with it torch; the rest of the package does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from text_envs.core.engine import Outcome
from text_envs.core.starts import start_each
from text_envs.core.state import transaction
from text_envs.envs.vector import AutoresetMode, TokenVectorEnv
from text_envs.episodes.types import EpisodeBatch, Role

__all__ = ["TokenVecEnv"]

_ACTION = int(Role.ACTION)  # numpy compares faster with a plain integer


class TokenVecEnv(VecEnv):
    """A `TokenVectorEnv` with the conventions of Stable-Baselines3.

    A finished row is reset within the step; `reset_infos` tells about its new episode. Its info
    carries `terminal_observation`, `TimeLimit.truncated`, `episode` (return `r`, length `l` in
    agent tokens), `finish_reason`, `text`, `roles` and `example_index`; the info of every row that
    was paid carries `reward_terms`. The empty infos of the other rows keep a step cheap.

    Attributes:
        env: the native batch, for `get_state`, `set_state` and everything else.
    """

    def __init__(self, env: TokenVectorEnv) -> None:
        """Present `env`.

        Args:
            env: the native batch; its own autoreset mode is set aside.
        """
        self.env = env
        self.env.autoreset_mode = AutoresetMode.SAME_STEP
        self.env.metadata["autoreset_mode"] = AutoresetMode.SAME_STEP
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._returns = np.zeros(self.num_envs)
        self._actions: NDArray[np.int64] = np.zeros(self.num_envs, dtype=np.int64)

    def reset(self) -> NDArray[np.int64]:
        """Start an episode in every row and return the observations `(N, L)`.

        Options set by `set_options(mapping)` are those of `TokenVectorEnv.reset` and speak of all
        rows (`group_size` too); a list of N mappings has one for each row.
        """
        engine = self.env.engine
        with transaction(engine):
            self.env._seed_rows(self.env._seeds(self._seeds), engine.all_rows)
            start_each(engine, self._options if any(self._options) else [{}] * self.num_envs)
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0.0
        self._note_starts(engine.all_rows)
        return engine.tokens.copy()

    def _note_starts(self, rows: NDArray[np.int64]) -> None:
        """Fill in `reset_infos` of rows that have just started."""
        engine = self.env.engine
        for row, index in zip(rows.tolist(), engine.example_index[rows].tolist(), strict=True):
            self.reset_infos[row] = {"example_index": index}
        if engine.starts is not None:
            lengths = engine.prefix_lengths(rows).tolist()
            for row, length in zip(rows.tolist(), lengths, strict=True):
                self.reset_infos[row]["prefix_length"] = length

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Remember one token a row, `(N,)`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Write the tokens.

        Returns:
            Observations `(N, L)`, rewards `(N,)` float32, dones `(N,)`, and one info a row.

        Raises:
            RewardModelError: the reward model failed; the step was undone and can be repeated.
            Exception: what a start plug-in raised within the step before, which was completed;
                nothing has been done in this one.
        """
        engine = self.env.engine
        engine.raise_failure()
        ids = self.env._checked(self._actions)
        waiting = np.flatnonzero(~engine.running)
        if len(waiting):
            if (engine.example_index[waiting] < 0).any():
                raise RuntimeError("step() before reset(); call reset() first")
            engine.restart(waiting)  # a step that Ctrl-C broke off had ended them
        outcome = engine.advance(ids)
        self._returns += outcome.rewards
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if outcome.episodes is not None or any(term.any() for term in outcome.terms.values()):
            self._fill_infos(infos, outcome)
        observations = engine.tokens.copy()
        dones = outcome.terminated | outcome.truncated
        return observations, outcome.rewards.astype(np.float32), dones, infos

    def _fill_infos(self, infos: list[dict[str, Any]], outcome: Outcome) -> None:
        # By the terms: those of one row may cancel, and its ledger must show them all the same.
        paid = np.any([values != 0 for values in outcome.terms.values()], axis=0)
        paid[outcome.rows] = True
        rows = np.flatnonzero(paid)
        names = list(outcome.terms)
        columns = [outcome.terms[name][rows].tolist() for name in names]
        for row, *values in zip(rows.tolist(), *columns, strict=True):
            infos[row]["reward_terms"] = dict(zip(names, values, strict=True))
        if outcome.episodes is not None:
            self._fill_ends(infos, outcome, outcome.episodes)
            self._returns[outcome.rows] = 0.0
            self.env.engine.restart(outcome.rows)
            self._note_starts(outcome.rows)

    def _fill_ends(
        self, infos: list[dict[str, Any]], outcome: Outcome, episodes: EpisodeBatch
    ) -> None:
        rows = outcome.rows
        # Every column is turned into a list at once; the loop itself only builds dictionaries.
        columns = zip(
            rows.tolist(),
            list(episodes.tokens.copy()),
            (outcome.truncated[rows] & ~outcome.terminated[rows]).tolist(),
            self._returns[rows].tolist(),
            np.count_nonzero(episodes.roles == _ACTION, axis=1).tolist(),
            episodes.finish_reasons,
            episodes.transcripts,
            list(episodes.roles.copy()),
            episodes.example_indices.tolist(),
            strict=True,
        )
        for row, tokens, cut, total, length, reason, text, roles, index in columns:
            infos[row].update(
                {
                    "terminal_observation": tokens,
                    "TimeLimit.truncated": cut,
                    "episode": {"r": total, "l": length, "t": 0.0},
                    "finish_reason": reason,
                    "text": text,
                    "roles": roles,
                    "example_index": index,
                }
            )
        for row in rows.tolist() if outcome.details else ():
            infos[row]["reward_details"] = {k: float(v[row]) for k, v in outcome.details.items()}

    # -- what Stable-Baselines3 asks of the environments behind the batch -------------------------

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which tokens each row may write now, `(N, num_actions)`."""
        return self.env.action_masks()

    def close(self) -> None:
        """Close the native batch."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the native batch, once for each of `indices`."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the native batch, which all rows share."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"rows share their attributes; cannot set {attr_name!r} for some")
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the native batch once; rows of an array result go to their rows."""
        result = getattr(self.env, method_name)(*args, **kwargs)
        per_row = isinstance(result, np.ndarray) and len(result) == self.num_envs
        return [result[i] if per_row else result for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether the rows do what `wrapper_class` does; they do what `Monitor` does."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return an image of every row where the render mode is `rgb_array`."""
        if self.env.render_mode != "rgb_array":
            return [None for _ in range(self.num_envs)]
        return list(self.env.render() or ())

    def _get_indices(self, indices: VecEnvIndices) -> Iterable[int]:
        return super()._get_indices(indices)
