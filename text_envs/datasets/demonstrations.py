"""Episodes written by scripted policies, played through the environment's own steps.

A task scripts whole turns (`Task.script`); this file plays them token by token, so that what a
demonstration claims to have earned is what `step` paid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from text_envs.core.engine import TokenEngine
from text_envs.core.facts import describe
from text_envs.core.playing import play_out
from text_envs.core.reward import RewardModel
from text_envs.core.task import Task, set_demonstrator
from text_envs.episodes.errors import suggest
from text_envs.episodes.store import EpisodeDataset, concatenate
from text_envs.policies.scripted import Script
from text_envs.rewards.resolve import resolve

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


set_demonstrator(demonstrate)
