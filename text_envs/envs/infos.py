"""The infos of a batch as Gymnasium stacks them: `key` has a value a row, `_key` says for which."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.core.outcome import Outcome

__all__ = ["outcome_infos", "put", "start_infos"]


def put(infos: dict[str, Any], key: str, values: Any, which: NDArray[np.bool_]) -> None:
    """Add `values`, which say something about the rows `which` `(N,)`."""
    infos[key], infos[f"_{key}"] = values, which


def start_infos(engine: TokenEngine, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return what the infos of a batch say of `rows`, which have just started; no mask yet."""
    infos: dict[str, Any] = {}
    started = np.zeros(engine.num_envs, dtype=bool)
    started[rows] = True
    put(infos, "example_index", engine.example_index.copy(), started)
    if engine.starts is not None:
        lengths = engine.prefix_lengths(engine.all_rows)
        put(infos, "prefix_length", lengths, started.copy())
    return infos


def outcome_infos(engine: TokenEngine, outcome: Outcome) -> dict[str, Any]:
    """Return what the infos of a batch say of a step."""
    infos: dict[str, Any] = {}
    everywhere = np.ones(engine.num_envs, dtype=bool)
    terms: dict[str, Any] = {}
    for name, values in outcome.terms.items():
        put(terms, name, values, everywhere.copy())
    put(infos, "reward_terms", terms, everywhere)
    episodes, rows = outcome.episodes, outcome.rows
    if episodes is None:
        return infos
    ended = np.zeros(engine.num_envs, dtype=bool)
    ended[rows] = True
    for key, words in (
        ("finish_reason", episodes.finish_reasons),
        ("text", episodes.transcripts),
    ):
        values = np.empty(engine.num_envs, dtype=object)  # of None
        values[rows] = words
        put(infos, key, values, ended.copy())
    roles = np.zeros((engine.num_envs, engine.num_columns), dtype=np.int8)
    roles[rows] = episodes.roles
    put(infos, "roles", roles, ended.copy())
    index = np.zeros(engine.num_envs, dtype=np.int64)
    index[rows] = episodes.example_indices
    put(infos, "example_index", index, ended)
    if outcome.details:
        details: dict[str, Any] = {}
        for name, values in outcome.details.items():
            put(details, name, values, ended.copy())
        put(infos, "reward_details", details, ended.copy())
    return infos
