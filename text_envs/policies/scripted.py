"""Scripted players: whole turns as a task scripts them, or single random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.types import Turns

__all__ = ["Script"]


class Script:
    """A writer of whole turns: what the task scripts, or single random tokens.

    Attributes:
        qualities: `(N,)` what each row plays in its present episode.
        rngs: `(N,)` generators of the script's own: what it draws must not move the task's draws.
    """

    def __init__(self, task: Task, quality: str, seed: int, num_envs: int) -> None:
        """Seed the script.

        Args:
            task: which scripts.
            quality: one of the task's.
            seed: of the script's draws.
            num_envs: number of rows N.
        """
        self.task, self.quality = task, quality
        self.qualities = [quality] * num_envs
        self.rngs = [np.random.default_rng([seed, row, 1]) for row in range(num_envs)]
        self._allowed = np.flatnonzero(~np.asarray(task.tokenizer.forbidden))

    def begin(self, rows: NDArray[np.int64]) -> None:
        """Draw what `rows` play in the episodes that they are starting."""
        rngs = [self.rngs[row] for row in rows.tolist()]
        drawn = self.task.draw_qualities(self.quality, rngs)
        for row, quality in zip(rows.tolist(), drawn, strict=True):
            self.qualities[row] = quality

    def __call__(self, turns: Turns) -> Sequence[Sequence[int]]:
        """Write the task's script, or one random token."""
        rows = turns.rows.tolist()
        words: dict[int, Sequence[int]] = {}
        for row in (row for row in rows if self.qualities[row] == "random"):
            words[row] = [int(self.rngs[row].choice(self._allowed))]
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
            written = self.task.script(chosen, qualities)
            words |= dict(zip(chosen.rows.tolist(), written, strict=True))
        return [words[row] for row in rows]
