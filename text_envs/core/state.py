"""Saving and restoring rows: every array, the task's memory and the random generators."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.draws import StartDraws
from text_envs.core.engine import TokenEngine
from text_envs.core.rows import TokenRows
from text_envs.core.state_checks import (
    EPISODE,
    VERSION,
    check_draws,
    check_episode,
    check_generators,
)

__all__ = ["capture", "copy_episode", "fork", "restore", "transaction"]


def capture(engine: TokenEngine) -> dict[str, Any]:
    """Return all that decides how the rows go on: plain values and numpy arrays, all copies."""
    return {
        "version": VERSION,
        "episode": {name: getattr(engine, name).copy() for name in EPISODE},
        "memory": {name: array.copy() for name, array in engine.memory.items()},
        "draws": {name: getattr(engine.draws, name).copy() for name in StartDraws.ARRAYS},
        "rng": [copy.deepcopy(rng.bit_generator.state) for rng in engine.rngs],
    }


def restore(engine: TokenEngine, state: dict[str, Any]) -> None:
    """Put `state` back, random generators included; later steps repeat exactly.

    Raises:
        ValueError: the state is of another format, task shape or number of rows, or damaged; then
            nothing has been changed.
    """
    arrays = check_episode(engine, state)
    generators = check_generators(engine, state)
    draws = check_draws(engine, state)
    if len(arrays["position"]) != engine.num_envs:
        raise ValueError(
            f"state has {len(arrays['position'])} rows, this environment {engine.num_envs}"
        )
    _take_over(engine, arrays, state["memory"], engine.all_rows, engine.all_rows)
    for name, array in draws.items():
        getattr(engine.draws, name)[...] = array
    for rng, saved in zip(engine.rngs, generators, strict=True):
        rng.bit_generator.state = copy.deepcopy(saved)


def copy_episode(engine: TokenEngine, state: dict[str, Any], rows: NDArray[np.int64]) -> None:
    """Continue in `rows` the episodes of `state`, one for all rows or one a row.

    The generators of the rows stay their own, so that copies of one state can go different ways.

    Raises:
        ValueError: the state does not fit this environment; then nothing has been changed.
    """
    arrays = check_episode(engine, state)
    saved_rows = len(arrays["position"])
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
    _take_over(engine, arrays, state["memory"], rows, source)


def _take_over(
    engine: TokenEngine,
    arrays: Mapping[str, NDArray[Any]],
    memory: Mapping[str, NDArray[Any]],
    rows: NDArray[np.int64],
    source: NDArray[np.int64],
) -> None:
    for name, array in arrays.items():
        getattr(engine, name)[rows] = array[source]
    for name, kept in engine.memory.items():
        kept[rows] = np.asarray(memory[name])[source]
    if engine.record is not None:
        engine.record.clear(rows)
    engine.forget_failure(rows)
    engine.marked = True


@contextlib.contextmanager
def transaction(engine: TokenEngine, *, needed: bool = True) -> Iterator[None]:
    """Leave the rows as they were, generators included, if what is done within it fails.

    Args:
        engine: whose rows.
        needed: False where nothing can fail, which spares the copies.
    """
    if not needed:
        yield
        return
    kept, rngs, marked = capture(engine), list(engine.rngs), engine.marked
    failure = engine.failure
    try:
        yield
    except BaseException:
        engine.rngs[:] = rngs
        for name in EPISODE:
            getattr(engine, name)[...] = kept["episode"][name]
        for name, array in kept["memory"].items():
            engine.memory[name][...] = array
        for name in StartDraws.ARRAYS:
            getattr(engine.draws, name)[...] = kept["draws"][name]
        for rng, state in zip(rngs, kept["rng"], strict=True):
            rng.bit_generator.state = state
        engine.marked, engine.failure = marked, failure
        raise


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
    for name in EPISODE:
        getattr(scratch, name)[...] = getattr(engine, name)[rows]
    for name, array in scratch.memory.items():
        array[...] = engine.memory[name][rows]
    scratch.marked = True
    return scratch
