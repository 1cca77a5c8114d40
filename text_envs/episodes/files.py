"""One file a data set: compact, written at once, verified before anything is read from it.

A file is an ordinary `.npz` archive that numpy opens without pickle:

```
header.json       format, columns, padding, names of the finish reasons, metadata
tokens.npy        all written columns of all episodes, one after another, in the smallest integers
roles.npy         who wrote them, (same length)
starts.npy        (B,) first written column of each episode
lengths.npy       (B,) number of its written columns
rewards.npy       one number for each column of an action or a prefix
example_indices.npy, finish_codes.npy, truncated.npy, column_0.npy, ...   (B,)
```

Padding and the zeros between rewards are not stored. The archive's comment, its last bytes, is the
SHA-256 digest of all bytes before, so a truncated or altered file is never half-read.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.archives import Header, read_archive
from text_envs.episodes.errors import DatasetError
from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.validation import EARNING
from text_envs.episodes.writing import MARK, save

__all__ = ["add_reader", "load", "read_file", "save"]

_TAIL = len(MARK) + 64

Reader: TypeAlias = tuple[Callable[[Any], bool], Callable[[Any], EpisodeDataset]]
"""Whether a source is of its kind, and what reads it."""

_READERS: list[Reader] = []


def add_reader(accepts: Callable[[Any], bool], read: Callable[[Any], EpisodeDataset]) -> None:
    """Let `load` read another kind of source; the formats of other libraries introduce themselves.

    Args:
        accepts: whether a source is of this kind; asked about all but files that exist.
        read: returns its episodes.
    """
    _READERS.append((accepts, read))


def load(source: Any) -> EpisodeDataset:
    """Return recorded episodes.

    Args:
        source: a file that `save` wrote, the id of a Minari data set such as "maze/walks-v0", a
            `minari.MinariDataset`, or an `EpisodeDataset`, which is returned as it is.

    Raises:
        DatasetError: the file is missing, truncated, altered, no data set, or contradicts itself.
        TypeError: `source` is of another kind.
    """
    if isinstance(source, EpisodeDataset):
        return source
    named = isinstance(source, str | os.PathLike)
    if not (named and Path(source).exists()):
        for accepts, read in _READERS:
            if accepts(source):
                return read(source)
    if named:
        return read_file(Path(source))
    raise TypeError(
        "a data set is a file, the id of a Minari data set, a MinariDataset or an "
        f"EpisodeDataset; got {type(source).__name__}"
    )


def read_file(path: Path) -> EpisodeDataset:
    """Read what `save` wrote; see `load`."""
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file, and it is not the id of a Minari set")
    content = path.read_bytes()
    if content[-_TAIL:-64] != MARK:
        raise DatasetError(f"{path}: the file is truncated, or was not written by text_envs")
    if hashlib.sha256(content[:-64]).hexdigest().encode() != content[-64:]:
        raise DatasetError(f"{path}: the file has been altered: its checksum does not fit")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _unpack(*read_archive(archive, len(content), str(path)), str(path))
    except DatasetError:
        raise
    except Exception as error:  # whatever a file made by hand can cause
        what = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: the file is no data set ({what})") from error


# -- between the fields and the arrays of a file ---------------------------------------------------


def _unpack(header: Header, arrays: Mapping[str, NDArray[Any]], source: str) -> EpisodeDataset:
    lengths, starts = arrays["lengths"].astype(np.int64), arrays["starts"].astype(np.int64)
    count, width = len(lengths), header.num_columns
    total = int(lengths.sum())
    for field in ("tokens", "roles"):
        if len(arrays[field]) != total:
            raise DatasetError(
                f"{source}: {field} has {len(arrays[field])} columns, the episodes together {total}"
            )
    late = np.flatnonzero(starts + lengths > width)
    if len(late):
        raise DatasetError(
            f"{source}: episode {late[0]}: starts and lengths do not fit into {width} columns"
        )
    columns = np.arange(width)
    written = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])  # (B, L)
    tokens = np.full((count, width), header.pad, dtype=np.int64)
    tokens[written] = arrays["tokens"]
    roles = np.zeros((count, width), dtype=np.int64)  # not yet int8, which would wrap around
    roles[written] = arrays["roles"]
    actions = np.isin(roles, EARNING)
    if len(arrays["rewards"]) != actions.sum():
        raise DatasetError(
            f"{source}: rewards has {len(arrays['rewards'])} values for {actions.sum()} actions"
        )
    rewards = np.zeros((count, width))
    rewards[actions] = arrays["rewards"]
    codes, known = arrays["finish_codes"], len(header.finish_reasons)
    if (unknown := np.flatnonzero(codes >= known)).size:
        raise DatasetError(
            f"{source}: the file is no data set (IndexError: finish_codes[{unknown[0]}] is "
            f"{codes[unknown[0]]}, header.json names {known} finish_reasons)"
        )
    return EpisodeDataset(
        tokens=tokens,
        roles=cast(Any, roles),
        rewards=rewards,
        example_indices=arrays["example_indices"].astype(np.int64),
        finish_reasons=tuple(header.finish_reasons[i] for i in codes.tolist()),
        truncated=arrays["truncated"],
        columns={name: arrays[f"column_{i}"] for i, name in enumerate(header.columns)},
        metadata=header.metadata,
        source=source,
    )
