"""Rows of whatever a user gives as `dataset`: a file, a Hub name, a table, a list."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_envs.episodes.errors import DatasetError, suggest
from text_envs.tasks.shared.files import ACCEPTED, Row, is_file_name, read_file

__all__ = ["listed", "name_of", "read_hub", "rows_of"]


def name_of(dataset: Any) -> str:
    """Return how messages call a data set."""
    is_path = isinstance(dataset, str | os.PathLike)
    return os.fspath(dataset) if is_path else type(dataset).__name__


def rows_of(dataset: Any, split: str) -> list[Row]:
    """Return the rows of a data set, all splits of those with a key `split` among them.

    Args:
        dataset: a file (`text_envs.tasks.shared.files.ACCEPTED`), the name of a data set on the Hub
            or of a folder that the package `datasets` reads, a list of texts or mappings, an array
            of texts, a `Dataset` or `DatasetDict`, a table of pandas, polars or pyarrow.
        split: which one of a Hub data set, a `DatasetDict` or another mapping from names to rows.

    Raises:
        DatasetError: it is none of these, or cannot be read; the message names it.
    """
    name = name_of(dataset)
    if isinstance(dataset, str | os.PathLike):
        path = Path(dataset)
        if is_file_name(path):
            return read_file(path)
        dataset = read_hub(os.fspath(dataset), split)
    elif isinstance(dataset, Mapping):
        dataset = _choose(dataset, split, name)
    return [Row(value, name, item) for item, value in enumerate(listed(dataset), start=1)]


def _choose(splits: Mapping[Any, Any], split: str, name: str) -> Any:
    """Return one of several data sets."""
    if split in splits:
        return splits[split]
    raise DatasetError(
        f"dataset must be rows, or splits of which {split!r} is one; {name} has no split {split!r}."
        f"{suggest(split, map(str, splits))} Choose with split=; a mapping of columns becomes rows "
        "by datasets.Dataset.from_dict"
    )


def listed(dataset: Any) -> Sequence[Any]:
    """Return the rows of an object in memory.

    Raises:
        DatasetError: it streams its rows, or has none.
    """
    if hasattr(dataset, "columns") and hasattr(dataset, "to_dict") and hasattr(dataset, "iloc"):
        return list(dataset.to_dict("records"))  # pandas
    for method in ("to_dicts", "to_pylist", "tolist"):  # polars, pyarrow, arrays and columns
        if hasattr(dataset, method):
            return list(getattr(dataset, method)())
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if indexed and not isinstance(dataset, bytes | bytearray | memoryview):
        return [dataset[index] for index in range(len(dataset))]
    name = type(dataset).__name__
    if hasattr(dataset, "__iter__") and not hasattr(dataset, "__len__"):
        raise DatasetError(
            f"dataset streams its rows ({name}), and a start is drawn from all of them; pass those "
            "that you want: list(dataset.take(1000)) of a data set, list(dataset) of anything else"
        )
    raise DatasetError(
        f"dataset must be a file, {ACCEPTED}; a Hub name; a list of texts or mappings; a data set "
        f"of the package datasets; or a table of pandas, polars or pyarrow; got {name}"
    )


def read_hub(name: str, split: str) -> Any:
    """Return a data set of the Hub, or of a folder that `datasets` reads.

    Raises:
        DatasetError: the package is missing, or it cannot load the data; the data is named.
    """
    try:
        import datasets
    except ImportError as error:
        raise DatasetError(
            f"dataset {name!r} is no local file; data sets of the Hub need the package datasets: "
            "pip install 'text_envs[data]'"
        ) from error
    try:
        saved = ("dataset_info.json", "dataset_dict.json")
        if any((Path(name) / file).exists() for file in saved):
            loaded: Any = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, split=split, trust_remote_code=False)
    except Exception as error:  # every failure of another library becomes one that names the data
        raise DatasetError(
            f"dataset {name!r}, split {split!r}: neither a local file nor a data set that "
            f"`datasets` can load ({type(error).__name__}: {error}). Files: {ACCEPTED}"
        ) from error
    return _choose(loaded, split, name) if isinstance(loaded, Mapping) else loaded
