"""Episodes written by scripted policies, played through the environment's own steps.

A task scripts whole turns (`Task.script`); this file plays them token by token, so that what a
demonstration claims to have earned is what `step` paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.engine import TokenEngine
from text_envs.errors import suggest
from text_envs.rewards import RewardModel, resolve
from text_envs.tasks.base import Task
from text_envs.types import Turns

__all__ = ["Demonstrations", "demonstrate"]

_MOST_ROWS = 256


@dataclass(frozen=True, repr=False)
class Demonstrations:
    """B recorded episodes.

    Attributes:
        tokens: `(B, L)` int64, the final observations.
        roles: `(B, L)` int8, who wrote each column, see `text_envs.Role`.
        rewards: `(B, L)` float64, on the column of the action that earned them.
        example_indices: `(B,)` int64.
        finish_reasons: why each episode ended.
    """

    tokens: NDArray[np.int64]
    roles: NDArray[np.int8]
    rewards: NDArray[np.float64]
    example_indices: NDArray[np.int64]
    finish_reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Sum of rewards of each episode, `(B,)`."""
        returns: NDArray[np.float64] = self.rewards.sum(axis=1)
        return returns

    def __repr__(self) -> str:
        mean = f", mean return {self.returns.mean():.3f}" if len(self) else ""
        return f"Demonstrations({len(self)} episodes of up to {self.tokens.shape[1]} columns{mean})"


def demonstrate(
    task: Task,
    n: int,
    *,
    quality: str = "expert",
    seed: int = 0,
    reward: Any = None,
) -> Demonstrations:
    """Play `n` episodes with a scripted policy.

    Args:
        task: the task; it says which qualities it can script.
        n: number of episodes.
        quality: "random" writes uniformly random tokens, "expert" plays as well as the task's
            script can, "mixed" draws one of the two for each episode; tasks may offer more.
        seed: of starts, replies and the script; the first episodes of a longer run are not
            those of a shorter one, because rows are played side by side.
        reward: a reward model, or None for the task's own.

    Raises:
        ValueError: an unknown quality, or fewer than one episode.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n!r}")
    if quality not in task.qualities:
        raise ValueError(f"unknown quality {quality!r}.{suggest(quality, task.qualities)}")
    chosen = task.reward if reward is None else reward
    model: RewardModel | None = None if chosen is None else resolve(chosen)
    player = _Player(task, model, min(n, _MOST_ROWS), quality, seed)
    batches = []
    remaining = n
    while remaining > 0:
        batches.append(player.play(min(remaining, player.engine.num_envs)))
        remaining -= len(batches[-1])
    return Demonstrations(
        tokens=np.concatenate([batch.tokens for batch in batches]),
        roles=np.concatenate([batch.roles for batch in batches]),
        rewards=np.concatenate([batch.rewards for batch in batches]),
        example_indices=np.concatenate([batch.example_indices for batch in batches]),
        finish_reasons=tuple(reason for batch in batches for reason in batch.finish_reasons),
    )


class _Player:
    """Plays one batch of episodes after another on the rows of one engine."""

    def __init__(
        self, task: Task, model: RewardModel | None, rows: int, quality: str, seed: int
    ) -> None:
        self.engine = TokenEngine(task, model, rows)
        self.quality = quality
        for row in range(rows):
            self.engine.set_rng(row, np.random.default_rng([seed, row, 0]))
        # The script has generators of its own: what it draws must not move the task's draws.
        self.rngs = [np.random.default_rng([seed, row, 1]) for row in range(rows)]

    def play(self, count: int) -> Demonstrations:
        """Play one episode in each of the first `count` rows."""
        engine, task = self.engine, self.engine.task
        rows = engine.all_rows[:count]
        engine.begin(rows, engine.draw_examples(rows))
        rewards = np.zeros((count, engine.num_columns))
        reasons = [""] * count
        qualities = task.draw_qualities(self.quality, self.rngs[:count])
        plans: list[list[int]] = [[] for _ in range(count)]
        while engine.running[rows].any():
            running = rows[engine.running[rows]]
            self._plan(running, plans, qualities)
            actions = np.array([plans[row].pop(0) for row in running.tolist()], dtype=np.int64)
            columns = engine.position[running].copy()
            turn = engine.turn_start[running].copy()
            outcome = engine.advance(actions, running)
            rewards[running, columns] = outcome.rewards[running]
            # A turn that the environment ended before its plan was written out needs a new plan.
            for row in running[engine.turn_start[running] != turn].tolist():
                plans[row].clear()
            if outcome.episodes is not None:
                ended = zip(outcome.rows.tolist(), outcome.episodes.finish_reasons, strict=True)
                for row, reason in ended:
                    reasons[row] = reason
        return Demonstrations(
            tokens=engine.tokens[rows].copy(),
            roles=engine.roles(rows),
            rewards=rewards,
            example_indices=engine.example_index[rows].copy(),
            finish_reasons=tuple(reasons),
        )

    def _plan(
        self, running: NDArray[np.int64], plans: list[list[int]], qualities: Sequence[str]
    ) -> None:
        """Fill the empty plans: by the task's script, or with one random token."""
        engine = self.engine
        empty = [row for row in running.tolist() if not plans[row]]
        for row in (row for row in empty if qualities[row] == "random"):
            allowed = np.flatnonzero(~engine.tokenizer.forbidden)
            plans[row] = [int(self.rngs[row].choice(allowed))]
        scripted = np.array([row for row in empty if qualities[row] != "random"], dtype=np.int64)
        if not len(scripted):
            return
        turns = Turns(
            rows=scripted,
            tokens=engine.tokens[scripted],
            start=engine.position[scripted],
            stop=engine.position[scripted],
            example_indices=engine.example_index[scripted],
            memory=engine.memory,
            rngs=[self.rngs[row] for row in scripted.tolist()],
        )
        words = engine.task.script(turns, [qualities[row] for row in scripted.tolist()])
        for row, tokens in zip(scripted.tolist(), words, strict=True):
            if len(tokens) == 0:
                raise ValueError(f"{type(engine.task).__name__}.script wrote nothing (row {row})")
            plans[row] = [int(token) for token in tokens]
