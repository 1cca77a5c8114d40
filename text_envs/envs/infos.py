"""The infos of single environments and of batches: the same keys with the same kinds at every step.

| key | until the end | at the end |
|---|---|---|
| `example_index` | which example the text is about | the same |
| `reward_terms` | all terms of the ledger, 0 where nothing was paid | what was paid |
| `finish_reason`, `text` | "" | why it ended, what was written behind the prompt |
| `roles` | `(L,)` int8, all 0 | who wrote each column |
| `reward_details` | 0, once a reward model has told any | what the reward model tells |
| `prefix_length` | at a reset with a start plug-in | |

Batches stack them as Gymnasium does: `key` has a value a row, `_key` says for which rows it was
said in this step. Buffers of other libraries take the first info for the form of all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.core.outcome import Outcome

__all__ = ["outcome_infos", "put", "row_info", "start_infos"]


def row_info(engine: TokenEngine, outcome: Outcome | None = None) -> dict[str, Any]:
    """Return the info of the only row, after a step or, without an outcome, after a plain one."""
    terms = {} if outcome is None else outcome.terms
    info: dict[str, Any] = {
        "example_index": engine.example_index[0],
        "reward_terms": {
            name: float(terms[name][0]) if name in terms else 0.0 for name in engine.term_names
        },
        "finish_reason": "",
        "text": "",
    }
    if outcome is not None and outcome.episodes is not None:
        info["finish_reason"] = outcome.episodes.finish_reasons[0]
        info["text"] = outcome.episodes.transcripts[0]
        info["roles"] = outcome.episodes.roles[0]
    else:
        info["roles"] = np.zeros(engine.num_columns, dtype=np.int8)
    if engine.detail_names:
        details = {} if outcome is None else outcome.details
        info["reward_details"] = {
            name: float(details[name][0]) if name in details else 0.0
            for name in engine.detail_names
        }
    return info


def put(infos: dict[str, Any], key: str, values: Any, which: NDArray[np.bool_]) -> None:
    """Add `values`, which say something about the rows `which` `(N,)`."""
    infos[key], infos[f"_{key}"] = values, which


def start_infos(engine: TokenEngine, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return what the infos of a batch say of `rows`, which have just started; no mask yet."""
    started = np.zeros(engine.num_envs, dtype=bool)
    started[rows] = True
    infos: dict[str, Any] = {}
    put(infos, "example_index", engine.example_index.copy(), started)
    terms: dict[str, Any] = {}
    for name in engine.term_names:
        put(terms, name, np.zeros(engine.num_envs), started.copy())
    put(infos, "reward_terms", terms, started.copy())
    _put_ends(infos, engine, None)
    if engine.starts is not None:
        lengths = engine.prefix_lengths(engine.all_rows)
        put(infos, "prefix_length", lengths, started.copy())
    return infos


def outcome_infos(engine: TokenEngine, outcome: Outcome) -> dict[str, Any]:
    """Return what the infos of a batch say of a step."""
    everywhere = np.ones(engine.num_envs, dtype=bool)
    infos: dict[str, Any] = {}
    put(infos, "example_index", engine.example_index.copy(), everywhere)
    terms: dict[str, Any] = {}
    for name, values in outcome.terms.items():
        put(terms, name, values, everywhere.copy())
    put(infos, "reward_terms", terms, everywhere.copy())
    _put_ends(infos, engine, outcome)
    return infos


def _put_ends(infos: dict[str, Any], engine: TokenEngine, outcome: Outcome | None) -> None:
    """Add what is known of texts that have ended, empty for all others."""
    count = engine.num_envs
    ended = np.zeros(count, dtype=bool)
    reasons, texts = np.full(count, "", dtype=object), np.full(count, "", dtype=object)
    roles = np.zeros((count, engine.num_columns), dtype=np.int8)
    if outcome is not None and outcome.episodes is not None:
        rows, episodes = outcome.rows, outcome.episodes
        ended[rows] = True
        reasons[rows], texts[rows] = episodes.finish_reasons, episodes.transcripts
        roles[rows] = episodes.roles
    put(infos, "finish_reason", reasons, ended)
    put(infos, "text", texts, ended.copy())
    put(infos, "roles", roles, ended.copy())
    if engine.detail_names:
        told = {} if outcome is None else outcome.details
        details: dict[str, Any] = {}
        for name in engine.detail_names:
            values = np.zeros(count)
            if name in told:
                values[ended] = told[name][ended]
            put(details, name, values, ended.copy())
        put(infos, "reward_details", details, ended.copy())
