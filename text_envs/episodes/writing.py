"""Writing recorded episodes, whole or not at all; `files` reads them and tells the format."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.drafts import drafting, sync
from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Role
from text_envs.episodes.validation import EARNING

__all__ = ["FORMAT", "MARK", "save"]

FORMAT = 1
MARK = b"sha256:"


def save(dataset: Any, path: str | os.PathLike[str]) -> Path:
    """Write `dataset` to the file `path`, whole or not at all.

    Args:
        dataset: an `EpisodeDataset`, whose own file stands on this one.
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
    with drafting(target) as folder:
        draft = folder / "draft"
        draft.write_bytes(content)
        sync(draft)
        os.replace(draft, target)
        sync(target.parent)
    return target


def _is_dataset(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - len(MARK) - 64))
        return stream.read(len(MARK)) == MARK


def _pack(dataset: Any) -> bytes:
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
        archive.comment = MARK + b"0" * 64
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
