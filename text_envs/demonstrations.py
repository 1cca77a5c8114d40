"""Episodes written by scripted policies, played through the environment's own steps.

A task scripts whole turns (`Task.script`); this file plays them token by token, so that what a
demonstration claims to have earned is what `step` paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.datasets.facts import describe
from text_envs.datasets.store import EpisodeDataset, concatenate
from text_envs.engine import TokenEngine
from text_envs.errors import suggest
from text_envs.playing import play_out
from text_envs.rewards import RewardModel, resolve
from text_envs.tasks.base import Task
from text_envs.types import Turns

__all__ = ["Script", "demonstrate"]

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
    engine = TokenEngine(task, model, min(n, _MOST_ROWS))
    script = Script(task, quality, seed, engine.num_envs)
    for row in range(engine.num_envs):
        engine.set_rng(row, np.random.default_rng([seed, row, 0]))
    parts: list[EpisodeDataset] = []
    while (left := n - sum(map(len, parts))) > 0:
        parts.append(_play(engine, script, min(left, engine.num_envs)))
    facts = describe(task, seed=seed, policy=quality)
    return replace(concatenate(parts), metadata=facts)


def _play(engine: TokenEngine, script: Script, count: int) -> EpisodeDataset:
    """Play one episode in each of the first `count` rows."""
    rows = engine.all_rows[:count]
    engine.restart(rows)
    script.begin(rows)
    played = play_out(engine, rows, script, script.rngs[:count])
    return EpisodeDataset(
        tokens=engine.tokens[rows].copy(),
        roles=engine.roles(rows),
        rewards=played.rewards,
        example_indices=engine.example_index[rows].copy(),
        finish_reasons=tuple(played.finish_reasons),
        columns={"policy": np.array([script.qualities[row] for row in rows.tolist()])},
    )


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
