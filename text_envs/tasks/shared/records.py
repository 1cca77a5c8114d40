"""Rows of a public data set, each with the place it stands at, so that errors can name it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.tasks.shared.data import read_hub, read_lines

__all__ = ["Record", "read_records"]


class Record:
    """One row: its fields, and where it stands.

    Attributes:
        where: the file and line, or the data set and item, for error messages.
    """

    def __init__(self, where: str, fields: Mapping[str, Any]) -> None:
        self.where = where
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

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
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DatasetError(f"{self.where}: field {name!r} must be a number, got {value!r}")
        return float(value)

    def key(self, *names: str) -> str | None:
        """Return the first of `names` that the row has as text, or None if it has none."""
        return next((str(self._fields[name]) for name in names if name in self), None)


def read_records(dataset: Any, *, split: str) -> list[Record]:
    """Return the rows of a data set that belong to a split.

    Args:
        dataset: a `.jsonl` file (one object a line), a `.json` file (a list of objects, or one
            object a line), the name of a data set on the Hub or of a folder that the package
            `datasets` reads, or a list of mappings.
        split: the split of a Hub data set, and of rows that carry a key `split`.

    Raises:
        DatasetError: a missing file, text that is not UTF-8, a malformed line, a row that is no
            object, no row in the split; the message names the file and the line.
    """
    records = [
        Record(where, row)
        for where, row in _rows(dataset, split)
        if row.get("split", split) == split
    ]
    if not records:
        raise DatasetError(f"{_name(dataset)}: no rows in split {split!r}")
    return records


def _name(dataset: Any) -> str:
    return str(dataset) if isinstance(dataset, str | Path) else type(dataset).__name__


def _rows(dataset: Any, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    name = _name(dataset)
    if isinstance(dataset, str | Path):
        path = Path(dataset)
        if path.suffix in (".json", ".jsonl", ".ndjson") or path.is_file():
            yield from _file_rows(path)
            return
        dataset = read_hub(str(dataset), split)
    elif not hasattr(dataset, "__getitem__") or isinstance(dataset, Mapping):
        raise DatasetError(
            f"dataset must be a .json or .jsonl file, a Hub name, or a list of mappings; got {name}"
        )
    for index in range(len(dataset)):
        yield _checked(f"{name}, item {index + 1}", dataset[index])


def _file_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    lines = read_lines(path)
    first = next((line.strip() for line in lines if line.strip()), "")
    if path.suffix == ".json" and first.startswith("["):
        for index, row in enumerate(_parse(path, "\n".join(lines), 1)):
            yield _checked(f"{path}, item {index + 1}", row)
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _checked(f"{path}, line {number}", _parse(path, line, number))


def _parse(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}, line {line + error.lineno - 1}: not JSON "
            f"({error.msg} at column {error.colno})"
        ) from error


def _checked(where: str, row: Any) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where}: expected an object with fields, got {type(row).__name__}")
    return where, row
