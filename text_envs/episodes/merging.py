"""Several data sets as one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.files import load
from text_envs.episodes.store import EpisodeDataset, concatenate

__all__ = ["merge"]


def merge(datasets: Iterable[Any]) -> EpisodeDataset:
    """Return the episodes of several data sets, in their order.

    A column that some of them lack holds "" there if it is of strings, else NaN (integers and
    booleans become floats). Metadata on which all agree are kept, the others stand once for each
    data set under `"merged"`.

    Args:
        datasets: at least one, each anything that `text_envs.datasets.load` takes; with the same
            tokenizer, version of the environment and columns. Their environments may differ in
            arguments, such as a limit on moves.

    Raises:
        DatasetError: they do not fit together; the message names the two and the difference.
        ValueError: there are none.
        TypeError: `datasets` is a single one.
    """
    if isinstance(datasets, EpisodeDataset | str | os.PathLike):
        raise TypeError(
            f"merge takes several data sets in a list, got one {type(datasets).__name__}; write "
            "merge([one, other])"
        )
    parts = [load(dataset) for dataset in datasets]
    if not parts:
        raise ValueError("merge needs at least one data set, got none")
    for number, part in enumerate(parts[1:], start=1):
        _check(parts[0], part, number)
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    filled = {name: _filled(name, parts) for name in names}
    bare = [replace(part, columns={}, metadata={}) for part in parts]
    return replace(
        concatenate(bare),
        columns={name: np.concatenate(values) for name, values in filled.items()},
        metadata=_metadata(parts),
        source="",
    )


def _check(first: EpisodeDataset, other: EpisodeDataset, number: int) -> None:
    names = (first.source or "data set 0", other.source or f"data set {number}")
    for what, one, two in (
        ("columns", first.tokens.shape[1], other.tokens.shape[1]),
        *(
            (key, first.metadata.get(key), other.metadata.get(key))
            for key in ("prompt_length", "tokenizer", "env_id")
        ),
    ):
        # What is not known cannot differ.
        if one != two and None not in (one, two):
            raise DatasetError(
                f"{names[1]} cannot be merged with {names[0]}: {what} {two!r} differs from {one!r}"
            )
    if _pad(first) != _pad(other) and None not in (_pad(first), _pad(other)):
        raise DatasetError(f"{names[1]} cannot be merged with {names[0]}: another padding")


def _pad(dataset: EpisodeDataset) -> int | None:
    empty = dataset.tokens[dataset.roles == 0]
    return int(empty[0]) if empty.size else None


def _filled(name: str, parts: list[EpisodeDataset]) -> list[NDArray[Any]]:
    """Return the column of each part, with a filler where a part has none."""
    known = [part.columns[name] for part in parts if name in part.columns]
    kinds = {values.dtype.kind for values in known}
    if len(kinds) > 1:
        got = sorted({str(values.dtype) for values in known})
        raise DatasetError(f"column {name!r} is of {' and '.join(got)} in different data sets")
    if len(known) == len(parts):
        return known
    filler: Any = "" if kinds == {"U"} else np.nan
    return [
        part.columns[name] if name in part.columns else np.full(len(part), filler) for part in parts
    ]


def _metadata(parts: list[EpisodeDataset]) -> dict[str, Any]:
    every = [dict(part.metadata) for part in parts]
    if len(every) == 1:
        return every[0]
    shared = {
        key: value
        for key, value in every[0].items()
        if all(key in facts and facts[key] == value for facts in every)
    }
    rest = [{key: value for key, value in facts.items() if key not in shared} for facts in every]
    return {**shared, "merged": rest} if any(rest) else shared
