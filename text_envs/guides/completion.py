"""Letting a guide finish what an agent has begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.core.facts import attribute, describe
from text_envs.core.playing import Played, play_out
from text_envs.core.reward import bind
from text_envs.core.state import copy_episode
from text_envs.core.task import Task
from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.types import Role
from text_envs.guides.sources import as_guide
from text_envs.rewards import RewardModel, resolve
from text_envs.tokens.protocol import end_ids

__all__ = ["complete"]


def complete(
    env: Any,
    states: Any,
    guide: Any,
    *,
    example_indices: Any = None,
    seed: int | Sequence[int] | None = None,
    reward: Any = None,
    guide_kwargs: Mapping[str, Any] | None = None,
    role: Role = Role.PREFIX,
) -> EpisodeDataset:
    """Let a guide finish partial episodes, all of them in one batch.

    The guide's tokens have the role `Role.PREFIX`: an agent's losses leave them out as they leave
    out a given prefix. What stood before keeps its roles. Rewards are those of the guide's
    columns, without shaping; what turns before a state have earned is not in the state.

    Args:
        env: any environment of the suite, or a `Task`.
        states: what `get_state()` of an environment returned (all its rows), a list of such
            states, or observations `(B, L)` of tasks without turns.
        guide: anything `as_guide` takes.
        example_indices: `(B,)` the examples of observations.
        seed: of the guide, of replies and of rewards that draw; None for an unpredictable one.
            A loop needs another one each time, for example `[seed, iteration]`.
        reward: a reward model; by default that of the environment, or of the task.
        guide_kwargs: arguments of `as_guide`.
        role: as what the guide's tokens are marked; `Role.ACTION` makes demonstrations of them.

    Returns:
        B episodes. `columns["start"]` is the column of the guide's first token, `columns["state"]`
        which of the partial episodes each one continues.

    Raises:
        ValueError: a state has ended or does not fit.
        GuideError, RewardModelError: the guide or the reward model failed; the episodes that were
            finished before are in the exception's attribute `partial_dataset`.
    """
    task, reward_model = _parts(env, reward)
    writer = as_guide(guide, task, **dict(guide_kwargs or {}))
    engine = _resume(task, reward_model, states, example_indices)
    rows = engine.all_rows
    base = [] if seed is None else [int(part) for part in np.atleast_1d(seed)]
    entropy = base or [int(np.random.SeedSequence().generate_state(1)[0])]
    for row in rows.tolist():
        engine.set_rng(row, np.random.default_rng([*entropy, row, 0]))
    # The guide has generators of its own: what it draws must not move the task's draws.
    rngs = [np.random.default_rng([*entropy, row, 1]) for row in rows.tolist()]
    start = engine.position.copy()
    try:
        played = play_out(engine, rows, writer, rngs, role=role)
    except BaseException as error:
        if isinstance(done := getattr(error, "played", None), Played):
            finished = _dataset(engine, done, start, ~engine.running)
            error.partial_dataset = finished  # type: ignore[attr-defined]
        raise
    facts = describe(env, seed=base or None, policy=f"guide {writer.name}")
    return replace(_dataset(engine, played, start, ~engine.running), metadata=facts)


def _parts(env: Any, reward: Any) -> tuple[Task, RewardModel | None]:
    if isinstance(env, Task):
        task, model, spec = env, None, env.reward if reward is None else reward
    else:
        engine = attribute(env, "engine")
        if not isinstance(engine, TokenEngine):
            raise TypeError(
                f"env must be an environment of text_envs or a Task, got {type(env).__name__}"
            )
        task, model, spec = engine.task, engine.reward_model, reward
    if spec is not None:
        model = resolve(spec)
        bind(model, task)
    return task, model


def _resume(
    task: Task, reward_model: RewardModel | None, states: Any, example_indices: Any
) -> TokenEngine:
    """Return an engine whose rows stand where the partial episodes stand."""
    if isinstance(states, np.ndarray):
        return _from_observations(task, reward_model, states, example_indices)
    if example_indices is not None:
        raise ValueError("example_indices go with observations; states know their examples")
    parts = [states] if isinstance(states, Mapping) else list(states)
    sizes = []
    for part in parts:
        if not isinstance(part, Mapping) or "episode" not in part:
            raise ValueError(
                "states must be what get_state() returned, a list of that, or an array of "
                f"observations; got {type(part).__name__}"
            )
        sizes.append(len(part["episode"]["position"]))
    if not sum(sizes):
        raise ValueError("no states to complete")
    engine = TokenEngine(task, reward_model, sum(sizes))
    for rows, part in zip(np.split(engine.all_rows, np.cumsum(sizes)[:-1]), parts, strict=True):
        copy_episode(engine, dict(part), rows)
    if not engine.running.all():
        row = int(np.flatnonzero(~engine.running)[0])
        raise ValueError(f"state {row} has ended, or never begun; accepted: running episodes")
    return engine


def _from_observations(
    task: Task, reward_model: RewardModel | None, tokens: NDArray[Any], example_indices: Any
) -> TokenEngine:
    if task.multi_turn:
        raise ValueError(
            f"{type(task).__name__} has turns, and observations do not hold what it remembers; "
            "accepted: states of get_state()"
        )
    columns = task.prompt_length + task.max_tokens
    if tokens.ndim != 2 or tokens.shape[1] != columns or not len(tokens):
        raise ValueError(f"observations must have shape (B, {columns}), got {tokens.shape}")
    indices = np.asarray(-1 if example_indices is None else example_indices)
    if indices.shape != (len(tokens),) or indices.min() < 0 or indices.max() >= len(task):
        raise ValueError(
            f"example_indices must be {len(tokens)} numbers of 0..{len(task) - 1}, "
            f"got {example_indices!r}"
        )
    engine = TokenEngine(task, reward_model, len(tokens))
    engine.begin(engine.all_rows, indices.astype(np.int64))
    written = tokens[:, task.prompt_length :] != task.tokenizer.pad_id
    lengths = written.sum(axis=1)
    generated = tokens[:, task.prompt_length :]
    wrong = np.where(written, generated, 0) >= task.tokenizer.num_actions
    wrong |= written & np.isin(generated, end_ids(task.tokenizer))
    wrong |= written != (np.arange(task.max_tokens) < lengths[:, None])
    bad = (tokens[:, : task.prompt_length] != engine.tokens[:, : task.prompt_length]).any(axis=1)
    bad |= wrong.any(axis=1) | (lengths == task.max_tokens)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"observation {row} is no running episode about example {int(indices[row])}: "
            f"{tokens[row].tolist()}"
        )
    engine.tokens[...] = tokens
    engine.position += lengths
    return engine


def _dataset(
    engine: TokenEngine, played: Played, start: NDArray[np.int64], which: NDArray[np.bool_]
) -> EpisodeDataset:
    rows = np.flatnonzero(which)
    return EpisodeDataset(
        tokens=engine.tokens[rows],
        roles=engine.roles(rows),
        rewards=played.rewards[rows],
        example_indices=engine.example_index[rows],
        finish_reasons=tuple(played.finish_reasons[row] for row in rows.tolist()),
        columns={"start": start[rows], "state": rows},
    )
