"""Saving and restoring rows: every array, the task's memory and the random generators."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.draws import StartDraws
from text_envs.core.engine import TokenEngine
from text_envs.core.rows import TokenRows

__all__ = ["capture", "copy_episode", "fork", "restore"]

# What an episode is; the generators are apart, because many rows may continue one episode.
_EPISODE = (
    "tokens",
    "marks",
    "position",
    "turn_start",
    "prefix_stop",
    "running",
    "example_index",
)
_VERSION = 2


def capture(engine: TokenEngine) -> dict[str, Any]:
    """Return all that decides how the rows go on: plain values and numpy arrays, all copies."""
    return {
        "version": _VERSION,
        "episode": {name: getattr(engine, name).copy() for name in _EPISODE},
        "memory": {name: array.copy() for name, array in engine.memory.items()},
        "draws": {name: getattr(engine.draws, name).copy() for name in StartDraws.ARRAYS},
        "rng": [copy.deepcopy(rng.bit_generator.state) for rng in engine.rngs],
    }


def restore(engine: TokenEngine, state: dict[str, Any]) -> None:
    """Put `state` back, random generators included; later steps repeat exactly.

    Raises:
        ValueError: the state is of another format, task shape or number of rows.
    """
    _check(engine, state)
    if len(state["rng"]) != engine.num_envs:
        raise ValueError(
            f"state has {len(state['rng'])} rows, this environment {engine.num_envs}; "
            "reset(options={'state': ...}) starts every row from a state of one row"
        )
    copy_episode(engine, state, engine.all_rows)
    for name in StartDraws.ARRAYS:
        getattr(engine.draws, name)[...] = state["draws"][name]
    for rng, saved in zip(engine.rngs, state["rng"], strict=True):
        rng.bit_generator.state = copy.deepcopy(saved)


def copy_episode(engine: TokenEngine, state: dict[str, Any], rows: NDArray[np.int64]) -> None:
    """Continue in `rows` the episodes of `state`, one for all rows or one a row.

    The generators of the rows stay their own, so that copies of one state can go different ways.

    Raises:
        ValueError: the state does not fit this environment.
    """
    _check(engine, state)
    saved_rows = len(state["episode"]["position"])
    if saved_rows == engine.num_envs:
        source = rows
    elif saved_rows == 1:
        source = np.zeros(len(rows), dtype=np.int64)
    elif saved_rows == len(rows):
        source = np.arange(len(rows))
    else:
        raise ValueError(
            f"state has {saved_rows} rows; accepted: one for all, or {engine.num_envs}"
        )
    for name in _EPISODE:
        getattr(engine, name)[rows] = state["episode"][name][source]
    for name, array in engine.memory.items():
        array[rows] = state["memory"][name][source]
    if engine.record is not None:
        engine.record.clear(rows)
    engine.forget_failure(rows)
    engine.marked = True


def fork(engine: TokenRows, rows: NDArray[np.int64]) -> TokenEngine:
    """Return an engine whose rows `0..B-1` go on from `rows` `(B,)`, leaving them as they are.

    It has no rewards and no plug-ins. The generators are copies: what a task replies in the new
    rows it replies again in the old ones, if the same is written there.
    """
    if engine.task.multi_turn:
        rngs = [copy.deepcopy(engine.rngs[row]) for row in rows.tolist()]
    else:  # nothing will be drawn from here on
        rngs = [np.random.default_rng()] * len(rows)
    scratch = TokenEngine(engine.task, None, len(rows), rngs=rngs)
    for name in _EPISODE:
        getattr(scratch, name)[...] = getattr(engine, name)[rows]
    for name, array in scratch.memory.items():
        array[...] = engine.memory[name][rows]
    scratch.marked = True
    return scratch


def _check(engine: TokenEngine, state: Any) -> None:
    if not isinstance(state, dict) or state.get("version") != _VERSION:
        raise ValueError(
            f"not a state of a text environment (version {_VERSION}): got {type(state).__name__}"
        )
    columns = np.shape(state["episode"]["tokens"])[1]
    if columns != engine.num_columns:
        raise ValueError(
            f"state has {columns} columns, this environment {engine.num_columns}; "
            "it belongs to another prompt_length or max_tokens"
        )
    if set(state["memory"]) != set(engine.memory):
        raise ValueError(
            f"state remembers {sorted(state['memory'])}, this task {sorted(engine.memory)}"
        )
    largest = int(np.max(state["episode"]["tokens"], initial=0))
    if largest >= engine.tokenizer.vocab_size:
        raise ValueError(
            f"state holds token {largest}, the tokenizer knows {engine.tokenizer.vocab_size}; "
            "it belongs to another tokenizer"
        )
