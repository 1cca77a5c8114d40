"""Rows of a public data set, each with the place it stands at, so that errors can name it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.tasks.shared.sources import name_of, rows_of

__all__ = ["Record", "read_records"]


class Record:
    """One row: its fields, and where it stands.

    Attributes:
        where: the file and line, or the data set and item, for error messages.
    """

    def __init__(self, where: str, fields: Mapping[str, Any], *, cells: bool = False) -> None:
        """Keep a row.

        Args:
            where: it stands.
            fields: its content.
            cells: whether it is of a table of texts, which spells numbers out.
        """
        self.where = where
        self._fields = fields
        self._cells = cells

    def __contains__(self, name: str) -> bool:
        # Tables of numbers have NaN, which differs from itself, where nothing was written.
        value = self._fields.get(name)
        return value is not None and not (isinstance(value, float) and value != value)

    def find(self, *names: str) -> str:
        """Return the first of `names` that the row has.

        Raises:
            DatasetError: it has none of them.
        """
        for name in names:
            if name in self:
                return name
        wanted = " or ".join(map(repr, names))
        raise DatasetError(
            f"{self.where}: no field {wanted}; it has {', '.join(map(repr, self._fields))}"
        )

    def text(self, *names: str) -> str:
        """Return the text of the first of `names` that the row has, spaces at its ends dropped.

        Raises:
            DatasetError: no such field, or it holds no text.
        """
        name = self.find(*names)
        value = self._fields[name]
        if not isinstance(value, str):
            raise DatasetError(f"{self.where}: field {name!r} must be a text, got {value!r}")
        return value.strip()

    def texts(self, *names: str) -> list[str]:
        """Return the list of texts under the first of `names` that the row has.

        Raises:
            DatasetError: no such field, or it holds no list of texts.
        """
        name = self.find(*names)
        value = self._fields[name]
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        if not listed or not all(isinstance(item, str) for item in value):
            raise DatasetError(
                f"{self.where}: field {name!r} must be a list of texts, got {value!r}"
            )
        return [item.strip() for item in value]

    def number(self, *names: str) -> float:
        """Return the number under the first of `names` that the row has.

        Raises:
            DatasetError: no such field, or it holds no number.
        """
        name = self.find(*names)
        value = self._fields[name]
        if self._cells and isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DatasetError(f"{self.where}: field {name!r} must be a number, got {value!r}")
        return float(value)

    def key(self, *names: str) -> str | None:
        """Return the first of `names` that the row has as text, or None if it has none."""
        return next((str(self._fields[name]) for name in names if name in self), None)


def read_records(dataset: Any, *, split: str) -> list[Record]:
    """Return the rows of a data set that belong to a split.

    Args:
        dataset: what `text_envs.tasks.shared.sources.rows_of` takes, with a mapping in each row: a
            `.csv`, `.tsv`, `.json`, `.jsonl` or `.parquet` file, a Hub name, a folder, a `Dataset`,
            a `DatasetDict`, a table of pandas, a list of mappings.
        split: the split of a Hub data set or a `DatasetDict`, and of rows with a key `split`.

    Raises:
        DatasetError: a missing file, text that is not UTF-8, a malformed line, a row that is no
            object, no row in the split; the message names the file and the line.
    """
    records = []
    for row in rows_of(dataset, split):
        if not isinstance(row.value, Mapping):
            kind = type(row.value).__name__
            raise DatasetError(f"{row.where}: expected an object with fields, got {kind}")
        if row.value.get("split", split) == split:
            records.append(Record(row.where, row.value, cells=row.cells))
    if not records:
        raise DatasetError(f"{name_of(dataset)}: no rows in split {split!r}")
    return records
