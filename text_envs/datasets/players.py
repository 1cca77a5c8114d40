"""Environments of every kind as rows of episodes that can be recorded.

Three kinds: the engine behind a `TokenVectorEnv`, whose rows are stepped one by one as needed; a
single Gymnasium environment, wrappers included; and any `VecEnv` of Stable-Baselines3 over text
environments, whose rows start again by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from text_envs.core.facts import task_of
from text_envs.core.task import Task
from text_envs.episodes.types import Role

__all__ = ["End", "Player", "as_player"]


@dataclass(frozen=True)
class End:
    """A finished episode.

    Attributes:
        row: which row it was played in.
        tokens: `(L,)`.
        roles: `(L,)`.
        finish_reason: why it ended.
        example_index: which item it started from.
        truncated: cut by an outer limit.
    """

    row: int
    tokens: NDArray[np.int64]
    roles: NDArray[np.int8]
    finish_reason: str
    example_index: int
    truncated: bool


class Player(Protocol):
    """N rows to play in.

    Attributes:
        num_envs: N.
        task: what is played.
        engine: the one engine behind all rows, or None.
    """

    num_envs: int
    task: Task
    engine: Any

    @property
    def obs(self) -> Any:
        """The current observations: an array `(N, L)`, or a dictionary with one."""
        ...

    def reset(self, seed: int) -> None:
        """Start an episode in every row."""
        ...

    def step(
        self, actions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], list[End]]:
        """Write `actions` `(B,)` into `rows` `(B,)`.

        Returns:
            the columns they were written into, their rewards, and the episodes that ended.
        """
        ...

    def again(self, rows: NDArray[np.int64]) -> None:
        """Start another episode in finished `rows`."""
        ...


def as_player(env: Any) -> Player:
    """Return the rows of `env`.

    Raises:
        TypeError: `env` is of no known kind.
    """
    if isinstance(env, gym.vector.VectorEnv):
        if env.unwrapped is env and hasattr(env, "engine"):
            return _EngineRows(env)
        raise TypeError(
            f"collect takes a TokenVectorEnv, not {type(env).__name__}; pass env.unwrapped, or "
            "the id"
        )
    task_of(env)  # refuses what is no text environment
    if isinstance(env, gym.Env):
        return _SingleRow(env)
    # Our own VecEnv holds a native batch, whose rewards are not rounded to float32; a wrapper
    # around it forwards the attribute, and must not be bypassed.
    native = vars(env).get("env")
    return _VecRows(env) if native is None else _EngineRows(native)


class _EngineRows:
    """The rows of a native batch; only those that are played are stepped."""

    def __init__(self, env: Any) -> None:
        self.env, self.engine, self.num_envs = env, env.engine, env.num_envs
        self.task: Task = env.task

    @property
    def obs(self) -> Any:
        tokens = self.engine.tokens.copy()
        if hasattr(self.engine, "goals"):
            return {"observation": tokens, **self.engine.goals()}
        return tokens

    def reset(self, seed: int) -> None:
        self.env.reset(seed=seed)

    def again(self, rows: NDArray[np.int64]) -> None:
        self.engine.restart(rows)

    def step(
        self, actions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], list[End]]:
        self.engine.raise_failure()  # of a start plug-in
        columns = self.engine.position[rows].copy()
        outcome = self.engine.advance(actions, rows)
        ends = []
        if outcome.episodes is not None:
            episodes = outcome.episodes
            cut = outcome.truncated & ~outcome.terminated
            for i, row in enumerate(outcome.rows.tolist()):
                ends.append(
                    End(
                        row=row,
                        tokens=episodes.tokens[i],
                        roles=episodes.roles[i],
                        finish_reason=episodes.finish_reasons[i],
                        example_index=int(episodes.example_indices[i]),
                        truncated=bool(cut[row]),
                    )
                )
        return columns, outcome.rewards[rows], ends


class _SingleRow:
    """A single environment with its wrappers, as a batch of one."""

    num_envs = 1

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.engine: Any = env.unwrapped.engine  # type: ignore[attr-defined]
        self.task = task_of(env)
        self._obs: Any = None

    @property
    def obs(self) -> Any:
        return self._obs

    def reset(self, seed: int) -> None:
        self._obs = _as_batch(self.env.reset(seed=seed)[0])

    def again(self, rows: NDArray[np.int64]) -> None:
        self._obs = _as_batch(self.env.reset()[0])

    def step(
        self, actions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], list[End]]:
        columns = self.engine.position[rows].copy()
        obs, reward, terminated, truncated, info = self.env.step(int(actions[0]))
        self._obs = _as_batch(obs)
        ends = []
        if terminated or truncated:
            ends.append(
                End(
                    row=0,
                    tokens=self.engine.tokens[0].copy(),
                    roles=self.engine.roles(rows)[0],
                    finish_reason=info.get("finish_reason") or "truncated",
                    example_index=int(self.engine.example_index[0]),
                    truncated=bool(truncated and not terminated),
                )
            )
        return columns, np.array([float(reward)]), ends


def _as_batch(obs: Any) -> Any:
    if isinstance(obs, dict):
        return {name: np.asarray(value)[None] for name, value in obs.items()}
    return obs[None]


class _VecRows:
    """A `VecEnv` of Stable-Baselines3; rows that are not played are stepped on with an end token.

    Its rewards are float32; where the ledger in the infos rounds to the same, the ledger is taken.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.num_envs = env, env.num_envs
        self.task = task_of(env)
        self.engine = None
        self.pad = self.task.tokenizer.pad_id
        self._obs: Any = None
        self.written: list[list[int]] = [[] for _ in range(self.num_envs)]
        self.examples: list[int] = [0] * self.num_envs

    @property
    def obs(self) -> Any:
        return self._obs

    def reset(self, seed: int) -> None:
        self.env.seed(seed)
        self._obs = self.env.reset()
        for row in range(self.num_envs):
            self._started(row)

    def again(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: a finished row has started again."""

    def _started(self, row: int) -> None:
        self.written[row] = []
        self.examples[row] = int(self.env.reset_infos[row].get("example_index", 0))

    def step(
        self, actions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], list[End]]:
        tokens = self._tokens(self._obs)
        filled = (tokens != self.pad)[:, ::-1]
        columns = tokens.shape[1] - filled.argmax(axis=1)  # (N,) the first free one
        chosen = np.full(self.num_envs, self.task.tokenizer.eos_id)
        chosen[rows] = actions
        for row, column in enumerate(columns.tolist()):
            self.written[row].append(column)
        self._obs, paid, dones, infos = self.env.step(chosen)
        rewards = np.array([_exact(paid[row], infos[row]) for row in rows.tolist()])
        playing = np.isin(np.arange(self.num_envs), rows)
        ends = []
        for row in np.flatnonzero(dones).tolist():
            if playing[row]:
                ends.append(self._end(row, infos[row]))
            self._started(row)
        return columns[rows], rewards, ends

    def _end(self, row: int, info: dict[str, Any]) -> End:
        tokens = np.array(self._tokens(info["terminal_observation"]))
        roles = info.get("roles", 0)  # all 0 where the environment itself saw no end
        return End(
            row=row,
            tokens=tokens,
            roles=self._roles(tokens, self.written[row]) if not np.any(roles) else roles,
            finish_reason=info.get("finish_reason") or "truncated",
            example_index=int(info.get("example_index", self.examples[row])),
            truncated=bool(info.get("TimeLimit.truncated", False)),
        )

    def _roles(self, tokens: NDArray[np.int64], written: list[int]) -> NDArray[np.int8]:
        """Return the roles of an episode that an outer wrapper cut before its end was recorded."""
        columns = np.arange(len(tokens))
        roles = np.where(columns < written[0], int(Role.PREFIX), int(Role.REPLY)).astype(np.int8)
        roles[: self.task.prompt_length] = Role.PROMPT
        roles[written] = Role.ACTION
        roles[tokens == self.pad] = Role.PAD
        return roles

    @staticmethod
    def _tokens(obs: Any) -> NDArray[np.int64]:
        tokens: NDArray[np.int64] = obs["observation"] if isinstance(obs, dict) else obs
        return tokens


def _exact(paid: Any, info: dict[str, Any]) -> float:
    ledger = float(sum(info.get("reward_terms", {}).values()))
    return ledger if np.float32(ledger) == np.float32(paid) else float(paid)
