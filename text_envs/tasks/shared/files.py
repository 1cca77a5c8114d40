"""Rows of local files, each with the line it begins at; nothing is ever half-read."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_envs.episodes.errors import DatasetError

__all__ = ["ACCEPTED", "Row", "is_file_name", "is_text_name", "read_file", "read_lines"]

ACCEPTED = (
    ".txt (a prompt a line), .csv or .tsv (a row of names, then rows), .jsonl or .ndjson (an "
    "object a line), .json (a list of objects or texts), .parquet; each also with .gz behind"
)
_ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_LONGEST = 2**31 - 1  # letters of a cell: a prompt may be longer than csv expects


@dataclass(frozen=True)
class Row:
    """One item of a data set, and where it stands.

    Attributes:
        value: a text or a mapping, as the data has it.
        source: the file, or what the data is.
        item: its number, counted from 1.
        line: where it begins in the file, or None.
        cells: whether it stands in a table of texts, in which numbers are spelled out.
    """

    value: Any
    source: str
    item: int
    line: int | None = None
    cells: bool = False

    @property
    def where(self) -> str:
        """The file and line, or the data and item."""
        return f"{self.source}, " + (f"item {self.item}" if self.line is None else self._line)

    @property
    def full_where(self) -> str:
        """The file, the line where there is one, and the item."""
        line = "" if self.line is None else f"{self._line}, "
        return f"{self.source}, {line}item {self.item}"

    @property
    def _line(self) -> str:
        return f"line {self.line}"


def _ending(path: Path) -> str:
    """Return the ending that says what is in a file."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


def is_file_name(path: Path) -> bool:
    """Return whether a path means a file: it has an ending of one, or there is one."""
    return _ending(path) in _ENDINGS or path.is_file()


def is_text_name(path: Path) -> bool:
    """Return whether a path means a file of plain lines."""
    return _ending(path) == ".txt" or (_ending(path) == "" and path.is_file())


def read_file(path: Path) -> list[Row]:
    """Return the rows of a file: texts of a `.txt` or `.json` file, else mappings.

    Raises:
        DatasetError: a missing or empty file, an ending that is not known, text that is not UTF-8,
            a malformed line; the message names the file and the line.
    """
    ending = _ending(path)
    if ending in (".jsonl", ".ndjson"):
        rows = list(_json_lines(path, read_lines(path)))
    elif ending == ".json":
        rows = _json_rows(path)
    elif ending in (".csv", ".tsv"):
        rows = list(_table_rows(path, "," if ending == ".csv" else "\t"))
    elif ending == ".parquet":
        rows = [Row(row, str(path), item) for item, row in enumerate(_read_parquet(path), 1)]
    elif ending in ("", ".txt"):
        lines = [(n, line.strip()) for n, line in enumerate(read_lines(path), 1) if line.strip()]
        rows = [Row(line, str(path), item, n) for item, (n, line) in enumerate(lines, 1)]
    else:
        raise DatasetError(
            f"{path}: files that end with {ending!r} are not read; expected {ACCEPTED}"
        )
    if not rows:
        raise DatasetError(f"{path}: no examples: there are no rows in it; expected {ACCEPTED}")
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: not a complete gzip file ({error})") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the file ({error.strerror})") from error


def _read_text(path: Path) -> str:
    raw = _read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind the mark that some editors put at the start.
        byte = error.object[error.start]
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}, line {line}: not UTF-8 (byte {byte:#04x}); save the file as UTF-8"
        ) from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file.

    Raises:
        DatasetError: the file is missing or not UTF-8; the message says at which line.
    """
    # Only line feeds end a line: JSON strings may hold the other separators of Unicode.
    return [line.removesuffix("\r") for line in _read_text(path).split("\n")]


def _json_lines(path: Path, lines: list[str]) -> Iterator[Row]:
    item = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            item += 1
            yield Row(_parse(path, line, number), str(path), item, number)


def _json_rows(path: Path) -> list[Row]:
    """Return the rows of a list; files with an object a line are called .json as well."""
    lines = read_lines(path)
    text = "\n".join(lines)
    if text.lstrip().startswith("["):
        return [Row(row, str(path), item) for item, row in enumerate(_parse(path, text, 1), 1)]
    try:
        return list(_json_lines(path, lines))
    except DatasetError:
        whole = None
        with contextlib.suppress(json.JSONDecodeError):
            whole = json.loads(text)
        if not isinstance(whole, dict):
            raise
        raise DatasetError(
            f"{path}: expected a list of objects or texts, got one object with "
            f"{', '.join(map(repr, whole))}"
        ) from None


def _parse(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}, line {line + error.lineno - 1}: not JSON "
            f"({error.msg} at column {error.colno})"
        ) from error


def _table_rows(path: Path, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a table; an empty cell is nothing (None), not an empty text."""
    names: list[str] = []
    item = 0
    for line, cells in _records(path, delimiter):
        if not names:
            names = [cell.strip() for cell in cells]
            if twice := {name for name in names if names.count(name) > 1}:
                raise DatasetError(f"{path}, line {line}: columns named twice: {sorted(twice)}")
            continue
        if len(cells) != len(names):
            raise DatasetError(
                f"{path}, line {line}: {len(cells)} cells for {len(names)} columns "
                f"({', '.join(map(repr, names))}); a cell with {delimiter!r} in it needs quotes"
            )
        item += 1
        row = {name: cell or None for name, cell in zip(names, cells, strict=True)}
        yield Row(row, str(path), item, line, cells=True)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that has any, with the line it begins at."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter, strict=True)
    allowed = csv.field_size_limit()
    while True:
        line = reader.line_num + 1
        csv.field_size_limit(_LONGEST)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DatasetError(f"{path}, line {line}: malformed row ({error})") from error
        finally:
            csv.field_size_limit(allowed)
        if cells is None:
            return
        if cells:
            yield line, cells


def _read_parquet(path: Path) -> list[Any]:
    raw = _read_bytes(path)
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DatasetError(
            f"{path}: parquet files need the package pyarrow: pip install 'text_envs[data]'"
        ) from error
    try:
        rows: list[Any] = parquet.read_table(io.BytesIO(raw)).to_pylist()
    except ArrowException as error:
        raise DatasetError(f"{path}: not a parquet file ({error})") from error
    return rows
