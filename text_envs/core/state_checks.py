"""Whether a saved state fits an engine: everything is looked at before anything is changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.draws import StartDraws
from text_envs.core.rows import TokenRows
from text_envs.episodes.types import Role

__all__ = ["EPISODE", "VERSION", "check_draws", "check_episode", "check_generators"]

# What an episode is; the generators are apart, because many rows may continue one episode.
EPISODE = (
    "tokens",
    "marks",
    "position",
    "turn_start",
    "prefix_stop",
    "running",
    "example_index",
)
VERSION = 2


def check_episode(engine: TokenRows, state: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of the episodes of a state, checked.

    Raises:
        ValueError: a field is missing, of another type or shape, or out of range; it is named.
    """
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        raise ValueError(
            f"not a state of a text environment (version {VERSION}): got {type(state).__name__}"
        )
    episode, memory = _mapping(state, "episode"), _mapping(state, "memory")
    arrays = {name: _field(episode, name, engine) for name in EPISODE}
    rows = len(arrays["position"])
    columns = arrays["tokens"].shape[1]
    if columns != engine.num_columns:
        raise ValueError(
            f"state has {columns} columns, this environment {engine.num_columns}; "
            "it belongs to another prompt_length or max_tokens"
        )
    for name, array in arrays.items():
        wanted = (rows, columns) if name in ("tokens", "marks") else (rows,)
        if array.shape != wanted:
            raise ValueError(f"state field {name!r} has shape {array.shape}, expected {wanted}")
    if set(memory) != set(engine.memory):
        raise ValueError(f"state remembers {sorted(memory)}, this task {sorted(engine.memory)}")
    for name, kept in engine.memory.items():
        array = np.asarray(memory[name])
        if array.shape != (rows, *kept.shape[1:]) or array.dtype != kept.dtype:
            raise ValueError(
                f"state remembers {name!r} as {array.dtype} of shape {array.shape}, this task has "
                f"{kept.dtype} of {(rows, *kept.shape[1:])}"
            )
    _check_ranges(engine, arrays)
    return arrays


def _mapping(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = state.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(f"state field {name!r} is a {type(found).__name__}, not a mapping")
    return found


def _field(episode: Mapping[str, Any], name: str, engine: TokenRows) -> NDArray[Any]:
    if name not in episode:
        raise ValueError(f"state has no {name!r}; it has {sorted(map(str, episode))}")
    array, wanted = np.asarray(episode[name]), getattr(engine, name)
    if array.dtype != wanted.dtype or array.ndim != wanted.ndim:
        raise ValueError(
            f"state field {name!r} is {array.dtype} with {array.ndim} axes, expected "
            f"{wanted.dtype} with {wanted.ndim}"
        )
    return array


def _check_ranges(engine: TokenRows, arrays: Mapping[str, NDArray[Any]]) -> None:
    tokens, position, running = arrays["tokens"], arrays["position"], arrays["running"]
    begun = arrays["example_index"] >= 0
    first, width = engine.prompt_length, engine.num_columns
    largest = int(tokens.max(initial=0))
    if largest >= engine.tokenizer.vocab_size:
        raise ValueError(
            f"state holds token {largest}, the tokenizer knows {engine.tokenizer.vocab_size}; "
            "it belongs to another tokenizer"
        )
    _within("tokens", tokens, 0, engine.tokenizer.vocab_size - 1)
    _within("marks", arrays["marks"], 0, max(Role))
    _within("position", position, first, width)
    _within("position", position[running], first, width - 1)  # a full row has ended
    for name in ("turn_start", "prefix_stop"):
        _within(name, arrays[name], first, width)
        if (arrays[name] > position).any():
            raise ValueError(f"state field {name!r} lies behind 'position' in some row")
    _within("example_index", arrays["example_index"], -1, len(engine.task) - 1)
    if (running & ~begun).any():
        raise ValueError("state field 'example_index' is -1 in a row that is running")
    pad = engine.tokenizer.pad_id
    written = np.arange(width) < position[:, None]  # (N, L)
    written[:, :first] = True
    if (tokens[~written] != pad).any():
        raise ValueError("state field 'tokens' holds tokens behind 'position'")
    if (tokens[:, first:][written[:, first:]] == pad).any():
        raise ValueError("state field 'tokens' has a hole before 'position'")
    rows = np.flatnonzero(begun)
    if len(rows) and not np.array_equal(
        tokens[rows, :first], engine.task.prompts(arrays["example_index"][rows])
    ):
        raise ValueError(
            "state has other prompts than the examples it names have here; it belongs to other "
            "data, another split or another seed of the data"
        )


def _within(name: str, values: NDArray[Any], low: int, high: int) -> None:
    wrong = (values < low) | (values > high)
    if wrong.any():
        raise ValueError(
            f"state field {name!r} holds {values[wrong].flat[0]}; accepted: {low}..{high}"
        )


def check_draws(engine: TokenRows, state: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
    """Return the arrays of drawn starts, checked."""
    draws = _mapping(state, "draws")
    found = {}
    for name in StartDraws.ARRAYS:
        kept = getattr(engine.draws, name)
        array = np.asarray(draws.get(name))
        if array.dtype != kept.dtype or array.shape != kept.shape:
            raise ValueError(
                f"state field 'draws' has {name!r} as {array.dtype} of shape {array.shape}, "
                f"expected {kept.dtype} of {kept.shape}"
            )
        found[name] = array
    _within("draws: drawn", found["drawn"], 0, len(engine.task) - 1)
    _within("draws: next", found["next"], 0, found["drawn"].shape[1])
    return found


def check_generators(engine: TokenRows, state: Mapping[str, Any]) -> list[Any]:
    """Return the states of the generators, each of which could be taken over."""
    saved = state.get("rng")
    if not isinstance(saved, list | tuple):
        raise ValueError(f"state field 'rng' is a {type(saved).__name__}, not a list of states")
    if len(saved) != engine.num_envs:
        raise ValueError(
            f"state has {len(saved)} rows, this environment {engine.num_envs}; "
            "reset(options={'state': ...}) starts every row from a state of one row"
        )
    for row, (rng, wanted) in enumerate(zip(engine.rngs, saved, strict=True)):
        try:
            type(rng.bit_generator)(0).state = copy.deepcopy(wanted)
        except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
            raise ValueError(f"state field 'rng' of row {row} is no generator: {error}") from error
    return list(saved)
