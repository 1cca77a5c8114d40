"""Episodes written by scripted policies, played through the environment's own steps.

A task scripts whole turns (`Task.script`); this file plays them token by token, so that what a
demonstration claims to have earned is what `step` paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from text_envs.datasets.store import EpisodeDataset
from text_envs.engine import TokenEngine
from text_envs.errors import suggest
from text_envs.playing import play_out
from text_envs.rewards import RewardModel, resolve
from text_envs.tasks.base import Task
from text_envs.types import Turns

__all__ = ["demonstrate"]

_MOST_ROWS = 256


def demonstrate(
    task: Task,
    n: int,
    *,
    quality: str = "expert",
    seed: int = 0,
    reward: Any = None,
) -> EpisodeDataset:
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
    return EpisodeDataset(
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

    def play(self, count: int) -> EpisodeDataset:
        """Play one episode in each of the first `count` rows."""
        engine = self.engine
        rows = engine.all_rows[:count]
        engine.restart(rows)
        self.qualities = engine.task.draw_qualities(self.quality, self.rngs[:count])
        played = play_out(engine, rows, self._write, self.rngs[:count])
        return EpisodeDataset(
            tokens=engine.tokens[rows].copy(),
            roles=engine.roles(rows),
            rewards=played.rewards,
            example_indices=engine.example_index[rows].copy(),
            finish_reasons=tuple(played.finish_reasons),
        )

    def _write(self, turns: Turns) -> Sequence[Sequence[int]]:
        """Write the task's script, or one random token."""
        rows = turns.rows.tolist()
        words: dict[int, Sequence[int]] = {}
        allowed = np.flatnonzero(~np.asarray(self.engine.tokenizer.forbidden))
        for row in (row for row in rows if self.qualities[row] == "random"):
            words[row] = [int(self.rngs[row].choice(allowed))]
        scripted = np.array([i for i, row in enumerate(rows) if row not in words], dtype=np.int64)
        if len(scripted):
            chosen = replace(
                turns,
                rows=turns.rows[scripted],
                tokens=turns.tokens[scripted],
                start=turns.start[scripted],
                stop=turns.stop[scripted],
                example_indices=turns.example_indices[scripted],
                rngs=[turns.rngs[i] for i in scripted.tolist()],
            )
            qualities = [self.qualities[row] for row in chosen.rows.tolist()]
            written = self.engine.task.script(chosen, qualities)
            words |= dict(zip(chosen.rows.tolist(), written, strict=True))
        return [words[row] for row in rows]
