"""What `reset(options=...)` may ask for: an example, a group, a prefix, or a saved state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.core.state import copy_episode, transaction
from text_envs.episodes.errors import suggest

__all__ = ["OPTIONS", "start", "start_each"]

OPTIONS = ("index", "group_size", "prefix", "state")


def start(
    engine: TokenEngine, rows: NDArray[np.int64], options: Mapping[str, Any] | None = None
) -> None:
    """Start an episode in each of `rows`.

    Args:
        engine: whose rows.
        rows: `(B,)`.
        options: `index`, one example for all rows or one a row; `group_size`, that many
            neighbouring rows share one drawn start (example and start plug-in), now and whenever
            they start again by themselves, until the next reset; `prefix`, tokens (or text) already
            generated, one sequence for all rows or one a row; `state`, a saved state whose
            episodes are continued (the generators of the rows stay their own).

    Raises:
        ValueError: an unknown option, options that exclude each other, or a value out of range.
    """
    options = dict(options or {})
    for name in options:
        if name not in OPTIONS:
            raise ValueError(
                f"unknown reset option {name!r}.{suggest(str(name), (*OPTIONS, 'reset_mask'))}"
            )
    _check_exclusive(options)
    group_size = _group_size(options, len(rows))
    if (state := options.get("state")) is not None:
        copy_episode(engine, state, rows)
        engine.draws.set_groups(rows, None, engine.rngs)
        return
    prefixes = indices = None
    if (prefix := options.get("prefix")) is not None:
        prefixes = _as_prefixes(engine, prefix, len(rows))
    if (index := options.get("index")) is not None:
        indices = _as_indices(index, len(rows), len(engine.task))
    # A refused start, or one that a plug-in or Ctrl-C broke off, leaves everything as it was.
    foreign = bool(options) or engine.starts is not None or bool(engine.memory)
    with transaction(engine, needed=foreign):
        engine.draws.set_groups(rows, group_size, engine.rngs)
        if indices is None:
            indices = engine.draw_examples(rows)
        engine.begin(rows, indices)
        if prefixes is None:
            engine.roll_in(rows)
        else:
            engine.feed_prefix(rows, prefixes)


def start_each(engine: TokenEngine, options: Sequence[Mapping[str, Any]]) -> None:
    """Start an episode in every row, each with options of its own, in as few calls as possible.

    Args:
        engine: whose rows.
        options: one mapping a row. One and the same mapping in all places speaks of all rows at
            once, as `start` does: it may ask for groups, or hold one value a row.
    """
    if all(row is options[0] for row in options):
        start(engine, engine.all_rows, options[0])
        return
    together: dict[tuple[str, ...], list[int]] = {}
    for row, given in enumerate(options):
        # A start plug-in that runs a model is then asked for many rows at once.
        if set(given) <= {"index", "prefix"}:
            together.setdefault(tuple(sorted(given)), []).append(row)
        else:
            start(engine, engine.all_rows[row : row + 1], given)
    for names, rows in together.items():
        merged = {name: [options[row][name] for row in rows] for name in names}
        start(engine, np.array(rows, dtype=np.int64), merged)


def _check_exclusive(options: Mapping[str, Any]) -> None:
    given = [name for name in OPTIONS if options.get(name) is not None]
    if "state" in given and len(given) > 1:
        raise ValueError(f"option 'state' already fixes the start; got {given} together")
    if "index" in given and "group_size" in given:
        raise ValueError("options 'index' and 'group_size' both choose the example; give one")


def _group_size(options: Mapping[str, Any], count: int) -> int | None:
    group_size = options.get("group_size")
    if group_size is None:
        return None
    whole = isinstance(group_size, int | np.integer) and not isinstance(group_size, bool)
    if not whole or group_size < 1 or count % group_size:
        raise ValueError(
            f"group_size must be a positive integer that divides the {count} rows being "
            f"reset, got {group_size!r}"
        )
    return int(group_size)


def _as_indices(index: Any, count: int, examples: int) -> NDArray[np.int64]:
    try:
        indices = np.asarray(index)
    except ValueError as error:
        raise ValueError(f"option 'index' must be an integer or {count} of them") from error
    if _holds_bool(index) or indices.dtype.kind not in "iu" or indices.shape not in ((), (count,)):
        raise ValueError(f"option 'index' must be an integer or {count} of them, got {index!r}")
    if (wrong := np.atleast_1d((indices < 0) | (indices >= examples))).any():
        first = np.atleast_1d(indices)[np.flatnonzero(wrong)[0]]
        raise ValueError(f"option 'index': {first} is not an example; accepted: 0..{examples - 1}")
    return np.broadcast_to(indices, (count,)).astype(np.int64)


def _as_prefixes(engine: TokenEngine, prefix: Any, count: int) -> list[list[int]]:
    """Return one list of token ids a row; padding at the end of a row of an array is dropped."""
    pad, encode = engine.tokenizer.pad_id, engine.tokenizer.encode

    def tokens(item: Any) -> list[int]:
        ids = np.asarray(encode(item) if isinstance(item, str) else item)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu") or _holds_bool(item):
            raise ValueError(f"a prefix is a sequence of token ids or a text, got {item!r}")
        kept = [int(token) for token in ids]
        while kept and kept[-1] == pad:
            kept.pop()
        return kept

    one_for_all = isinstance(prefix, str) or len(prefix) == 0 or np.ndim(prefix[0]) == 0
    if one_for_all and not (isinstance(prefix, Sequence) and _all_text(prefix)):
        return [tokens(prefix)] * count
    if len(prefix) != count:
        raise ValueError(f"option 'prefix' has {len(prefix)} rows; accepted: one, or {count}")
    return [tokens(item) for item in prefix]


def _all_text(prefix: Any) -> bool:
    return not isinstance(prefix, str) and len(prefix) > 0 and isinstance(prefix[0], str)


def _holds_bool(values: Any) -> bool:
    """Return whether a list says True where it should say 1, which numpy would not tell apart."""
    if isinstance(values, np.ndarray | str):
        return False
    return any(isinstance(v, bool) for v in (values if isinstance(values, Sequence) else [values]))
