"""One episode as Minari holds it, and back.

A Minari episode holds one observation a step, which repeats a text of T actions T + 1 times.

| Minari | here |
|---|---|
| `observations[t]` `(T + 1, L)` | `tokens` as they stood before action t; the last row is all |
| `actions[t]` `(T,)` | the token in the t-th ACTION column |
| `rewards`, `terminations`, `truncations` `(T,)` | `rewards` of these columns, `truncated` |
| `infos["roles"]` `(T + 1, L)` | `roles`, as far as `observations` go |
| `infos["example_index"]`, `infos["finish_reason"]` `(T + 1,)` | the same; the reason comes last |
| `infos["column.NAME"]` `(T + 1,)` | `columns[NAME]` |
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.types import Role

__all__ = [
    "CHECKSUM",
    "buffers",
    "checksum",
    "checksum_of_facts",
    "episode_of",
    "read_episodes",
]

CHECKSUM = "text_envs_crc32"
"""Under which name the metadata of an episode, and our entry of the data set's, hold a checksum."""


def buffers(dataset: EpisodeDataset, pad: int) -> Iterator[Any]:
    """Yield the episodes as Minari takes them, one at a time."""
    from minari.data_collector import EpisodeBuffer

    for i in range(len(dataset)):
        episode = episode_of(dataset, i)
        at = np.flatnonzero(episode["roles"] == int(Role.ACTION))  # (T,)
        count = len(at) + 1
        observations, roles = _expand(episode["tokens"], episode["roles"], at, pad)
        last = np.arange(len(at)) == len(at) - 1
        infos: dict[str, Any] = {
            "roles": roles,
            "example_index": np.full(count, episode["example_index"]),
            "finish_reason": [""] * len(at) + [episode["finish_reason"]],
        }
        for name, value in episode["columns"].items():
            repeated: Any = [str(value)] * count if isinstance(value, str) else [value] * count
            infos[_key(name)] = repeated if isinstance(value, str) else np.array(repeated)
        yield EpisodeBuffer(
            id=i,
            observations=observations,
            actions=episode["tokens"][at],
            rewards=episode["rewards"][at],
            terminations=last & (not episode["truncated"]),
            truncations=last & episode["truncated"],
            infos=infos,
        )


def _key(column: str) -> str:
    return "column." + quote(column, safe="")  # a slash would make a group of HDF5


def episode_of(dataset: EpisodeDataset, i: int) -> dict[str, Any]:
    """Return the fields of one episode."""
    return {
        "tokens": dataset.tokens[i],
        "roles": dataset.roles[i],
        "rewards": dataset.rewards[i],
        "example_index": int(dataset.example_indices[i]),
        "finish_reason": dataset.finish_reasons[i],
        "truncated": bool(dataset.truncated[i]),
        "columns": {name: values[i] for name, values in dataset.columns.items()},
    }


def _expand(
    tokens: NDArray[np.int64], roles: NDArray[np.int8], at: NDArray[np.int64], pad: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return tokens and roles as they stood before each action, and at the end, `(T + 1, L)`."""
    stops = np.append(at, len(tokens))
    seen = np.arange(len(tokens)) < stops[:, None]
    return np.where(seen, tokens, np.int64(pad)), np.where(seen, roles, np.int8(Role.PAD))


def checksum(episode: Mapping[str, Any]) -> int:
    """Return the CRC-32 of what `episode_of` returned."""
    total = 0
    for field in ("tokens", "roles", "rewards"):
        total = zlib.crc32(np.ascontiguousarray(episode[field]).tobytes(), total)
    facts = [episode["example_index"], episode["finish_reason"], episode["truncated"]]
    for name, value in sorted(episode["columns"].items()):
        plain = str(value) if isinstance(value, str) else np.asarray(value).tobytes().hex()
        facts.append([name, plain])
    return zlib.crc32(json.dumps(facts).encode(), total)


def checksum_of_facts(facts: Mapping[str, Any]) -> int:
    """Return the CRC-32 of plain JSON values."""
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def read_episodes(name: str, opened: Any, *, sealed: bool) -> Iterator[dict[str, Any]]:
    """Yield the episodes that a data set of Minari selects, checked.

    Args:
        name: of the data set, for messages.
        opened: a `minari.MinariDataset`.
        sealed: whether every episode must have a checksum; those of several sets that Minari
            combined may have none.

    Raises:
        DatasetError: an episode contradicts itself or its checksum, or lacks what is needed.
    """
    sums = opened.storage.get_episode_metadata(opened.episode_indices)
    for data, facts in zip(opened.iterate_episodes(), sums, strict=True):
        where = f"{name}: episode {data.id}"
        infos = data.infos or {}
        for field in ("roles", "example_index", "finish_reason"):
            if field not in infos:
                raise DatasetError(
                    f"{where}: infos has no {field!r}; only data sets that text_envs exported "
                    "can be read"
                )
        episode = _compact(where, data, infos)
        found = checksum(episode)
        if facts.get(CHECKSUM, None if sealed else found) != found:
            raise DatasetError(f"{where}: it has been altered: its checksum does not fit")
        yield episode


def _compact(where: str, data: Any, infos: Mapping[str, Any]) -> dict[str, Any]:
    """Return one episode, checked against every step of its own expansion."""
    tokens, roles = data.observations[-1], infos["roles"][-1]
    at = np.flatnonzero(roles == int(Role.ACTION))
    for field in ("actions", "rewards", "terminations", "truncations"):
        if len(getattr(data, field)) != len(at):
            raise DatasetError(
                f"{where}: {field} has {len(getattr(data, field))} steps, roles has {len(at)} "
                "actions"
            )
    truncated = bool(data.truncations[-1])
    # What a step did not show is padding; the first step shows no action yet.
    pad = int(data.observations[0, -1])
    observations, seen = _expand(tokens, roles, at, pad)
    last = np.arange(len(at)) == len(at) - 1
    for field, stored, expected in (
        ("observations", data.observations, observations),
        ("roles", infos["roles"], seen),
        ("actions", data.actions, tokens[at]),
        ("terminations", data.terminations, last & (not truncated)),
        ("truncations", data.truncations, last & truncated),
    ):
        if not np.array_equal(stored, expected):
            raise DatasetError(f"{where}: {field} contradict the last observation and its roles")
    _check_infos(where, infos, len(at) + 1)
    rewards = np.zeros(len(tokens))
    rewards[at] = data.rewards
    return {
        "tokens": tokens,
        "roles": roles,
        "rewards": rewards,
        "example_index": int(infos["example_index"][-1]),
        "finish_reason": _text(infos["finish_reason"][-1]),
        "truncated": truncated,
        "columns": {
            unquote(key.removeprefix("column.")): _text(values[-1])
            for key, values in infos.items()
            if key.startswith("column.")
        },
    }


def _check_infos(where: str, infos: Mapping[str, Any], count: int) -> None:
    """Check that what is a fact of the whole episode stands at every step, the reason at the last.

    Entries that somebody else has added are nobody's business here.
    """
    for key, values in infos.items():
        if key == "finish_reason":
            repeats = all(len(value) == 0 for value in values[:-1])
        elif key == "example_index" or key.startswith("column."):
            array = np.asarray(values)
            floats = array.dtype.kind == "f"
            repeats = np.array_equal(array, np.full_like(array, array[-1]), equal_nan=floats)
        else:
            continue
        if len(values) != count or not repeats:
            raise DatasetError(f"{where}: infos[{key!r}] contradicts its last value")


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
