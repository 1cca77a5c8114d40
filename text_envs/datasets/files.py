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
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.datasets.store import EpisodeDataset
from text_envs.datasets.validation import EARNING
from text_envs.errors import DatasetError
from text_envs.types import Role

__all__ = ["load", "read_file", "save"]

FORMAT = 1
_MARK = b"sha256:"
_TAIL = len(_MARK) + 64
_MINARI_ID = re.compile(r"[-\w/]+-v\d+")


def save(dataset: EpisodeDataset, path: str | os.PathLike[str]) -> Path:
    """Write `dataset` to the file `path`, whole or not at all.

    Args:
        dataset: what to write.
        path: usually ends in `.npz`; its folder is made. A data set there is replaced.

    Returns:
        the path.

    Raises:
        DatasetError: `path` is something else, which is not overwritten.
    """
    target = Path(path)
    if target.is_dir() or (target.exists() and not _is_dataset(target)):
        raise DatasetError(f"{target} exists and is no data set; it is not overwritten")
    content = _pack(dataset)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        draft = Path(folder) / "draft"
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, target)
    return target


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
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.exists() or not _MINARI_ID.fullmatch(os.fspath(source)):
            return read_file(path)
    elif not hasattr(source, "iterate_episodes"):
        raise TypeError(
            "a data set is a file, the id of a Minari data set, a MinariDataset or an "
            f"EpisodeDataset; got {type(source).__name__}"
        )
    from text_envs.datasets.minari_io import from_minari  # which needs more than most readers do

    dataset: EpisodeDataset = from_minari(source)
    return dataset


def read_file(path: Path) -> EpisodeDataset:
    """Read what `save` wrote; see `load`."""
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file, and it is not the id of a Minari set")
    content = path.read_bytes()
    if content[-_TAIL:-64] != _MARK:
        raise DatasetError(f"{path}: the file is truncated, or was not written by text_envs")
    if hashlib.sha256(content[:-64]).hexdigest().encode() != content[-64:]:
        raise DatasetError(f"{path}: the file has been altered: its checksum does not fit")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            header = json.loads(archive.read("header.json"))
            if header["format"] != FORMAT:
                raise DatasetError(
                    f"{path}: format {header['format']!r} is not known here; accepted: {FORMAT}"
                )
            arrays = {
                name.removesuffix(".npy"): _read_array(archive, name)
                for name in archive.namelist()
                if name.endswith(".npy")
            }
            return _unpack(header, arrays, str(path))
    except DatasetError:
        raise
    except Exception as error:  # whatever a file made by hand can cause
        what = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: the file is no data set ({what})") from error


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _is_dataset(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        return stream.read(len(_MARK)) == _MARK


# -- between the fields and the arrays of a file ---------------------------------------------------


def _pack(dataset: EpisodeDataset) -> bytes:
    written = dataset.roles != int(Role.PAD)  # (B, L)
    empty = dataset.tokens[~written]
    reasons = sorted(set(dataset.finish_reasons))
    codes = {reason: code for code, reason in enumerate(reasons)}
    header = {
        "format": FORMAT,
        "num_columns": dataset.tokens.shape[1],
        "pad": int(empty[0]) if empty.size else 0,
        "finish_reasons": reasons,
        "columns": list(dataset.columns),
        "metadata": dataset.metadata,
    }
    arrays = {
        "tokens": _small(dataset.tokens[written]),
        "roles": dataset.roles[written].astype(np.uint8),
        "starts": _small(written.argmax(axis=1)),
        "lengths": _small(written.sum(axis=1)),
        "rewards": dataset.rewards[np.isin(dataset.roles, EARNING)],
        "example_indices": _small(dataset.example_indices),
        "finish_codes": _small(np.array([codes[reason] for reason in dataset.finish_reasons])),
        "truncated": dataset.truncated,
        **{f"column_{i}": values for i, values in enumerate(dataset.columns.values())},
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry("header.json"), json.dumps(header))
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(_entry(f"{name}.npy"), member.getvalue())
        archive.comment = _MARK + b"0" * 64
    content = stream.getvalue()[:-64]
    return content + hashlib.sha256(content).hexdigest().encode()


def _entry(name: str) -> zipfile.ZipInfo:
    # Without a date, so that the same episodes make the same file.
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _small(array: NDArray[Any]) -> NDArray[Any]:
    """Return non-negative integers in the smallest type that holds them."""
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))


def _unpack(
    header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], source: str
) -> EpisodeDataset:
    lengths, starts = arrays["lengths"].astype(np.int64), arrays["starts"].astype(np.int64)
    count, width = len(lengths), int(header["num_columns"])
    total = int(lengths.sum())
    for field in ("tokens", "roles"):
        if len(arrays[field]) != total:
            raise DatasetError(
                f"{source}: {field} has {len(arrays[field])} columns, the episodes together {total}"
            )
    late = np.flatnonzero(starts + lengths > width)
    if len(late) or len(starts) != count:
        raise DatasetError(
            f"{source}: episode {late[0] if len(late) else min(count, len(starts))}: starts and "
            f"lengths do not fit into {width} columns"
        )
    columns = np.arange(width)
    written = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])  # (B, L)
    tokens = np.full((count, width), int(header["pad"]), dtype=np.int64)
    tokens[written] = arrays["tokens"]
    roles = np.zeros((count, width), dtype=np.int8)
    roles[written] = arrays["roles"]
    actions = np.isin(roles, EARNING)
    if len(arrays["rewards"]) != actions.sum():
        raise DatasetError(
            f"{source}: rewards has {len(arrays['rewards'])} values for {actions.sum()} actions"
        )
    rewards = np.zeros((count, width))
    rewards[actions] = arrays["rewards"]
    return EpisodeDataset(
        tokens=tokens,
        roles=roles,
        rewards=rewards,
        example_indices=arrays["example_indices"].astype(np.int64),
        finish_reasons=tuple(header["finish_reasons"][i] for i in arrays["finish_codes"].tolist()),
        truncated=arrays["truncated"],
        columns={name: arrays[f"column_{i}"] for i, name in enumerate(header["columns"])},
        metadata=header["metadata"],
        source=source,
    )
