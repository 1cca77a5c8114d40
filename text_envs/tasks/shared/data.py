"""Examples from a text file, a JSON-lines file or a Hub data set; nothing is ever half-read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example

__all__ = ["load_examples", "read_hub", "read_lines"]


def load_examples(
    dataset: Any,
    *,
    split: str = "train",
    field: str | None = None,
    fields: Sequence[str] = ("prompt", "text"),
) -> list[Example]:
    """Return the examples of a data set.

    Args:
        dataset: a `.txt` file (one prompt a line), a `.jsonl` file (one object a line), the name
            of a data set on the Hub or of a folder that the package `datasets` reads, a list of
            texts, mappings or `Example`s.
        split: the split of a Hub data set, and of JSON lines that carry a key `split`.
        field: which key holds the prompt; default the first of `fields` that the data has.
        fields: the keys tried in turn. A key `references` (a list) or `reference` (a text) is
            read too; all other keys become metadata.

    Raises:
        DatasetError: a missing or empty file, text that is not UTF-8, a malformed line, a line
            without the field; the message names the file and the line.
    """
    if isinstance(dataset, str | Path):
        path = Path(dataset)
        if path.suffix in (".txt", ".jsonl", ".json") or path.is_file():
            rows: Sequence[Any] = _read_file(path)
        else:
            rows = read_hub(str(dataset), split)
        source = str(dataset)
    elif isinstance(dataset, Sequence) or hasattr(dataset, "__getitem__"):
        rows, source = [dataset[i] for i in range(len(dataset))], type(dataset).__name__
    else:
        raise DatasetError(
            "dataset must be a .txt or .jsonl file, a Hub name, or a list of texts; got "
            f"{type(dataset).__name__}"
        )
    examples = [
        example
        for number, row in enumerate(rows, start=1)
        if (example := _as_example(row, f"{source}, item {number}", split, field, fields))
    ]
    if not examples:
        raise DatasetError(f"{source}: no examples in split {split!r}")
    return examples


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file.

    Raises:
        DatasetError: the file is missing or not UTF-8; the message says at which line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the file ({error.strerror})") from error
    try:
        # Only line feeds end a line: JSON strings may hold the other separators of Unicode.
        return [line.removesuffix("\r") for line in raw.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}, line {line}: not UTF-8 (byte {raw[error.start]:#04x}); save the file as UTF-8"
        ) from error


def _read_file(path: Path) -> list[Any]:
    lines = read_lines(path)
    if path.suffix == ".json":
        raise DatasetError(f"{path}: expected .txt (a prompt a line) or .jsonl (an object a line)")
    if path.suffix != ".jsonl":
        return [line.strip() for line in lines if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(
                f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})"
            ) from error
        if not isinstance(row, dict):
            raise DatasetError(
                f"{path}, line {number}: expected a JSON object, got {type(row).__name__}"
            )
        rows.append(row)
    return rows


def read_hub(name: str, split: str) -> Sequence[Any]:
    """Return the rows of a data set of the Hub, or of a folder that `datasets` reads.

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
            loaded = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            loaded = datasets.load_dataset(name, split=split, trust_remote_code=False)
    except Exception as error:  # every failure of another library becomes one that names the data
        raise DatasetError(
            f"dataset {name!r}, split {split!r}: neither a local file nor a data set that "
            f"`datasets` can load ({type(error).__name__}: {error})"
        ) from error
    rows: Sequence[Any] = loaded
    return rows


def _as_example(
    row: Any, where: str, split: str, field: str | None, fields: Sequence[str]
) -> Example | None:
    """Return the example of one item, or None if it belongs to another split."""
    if isinstance(row, Example):
        return row
    if isinstance(row, str):
        return Example(prompt=row)
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where}: expected a text or a mapping, got {type(row).__name__}")
    if row.get("split", split) != split:
        return None
    key = field or next((name for name in fields if name in row), None)
    if key is None or key not in row:
        wanted = repr(field) if field else " or ".join(map(repr, fields))
        raise DatasetError(f"{where}: no field {wanted}; it has {', '.join(map(repr, row))}")
    prompt = row[key]
    if not isinstance(prompt, str):
        raise DatasetError(f"{where}: field {key!r} must be a text, got {prompt!r}")
    references = row.get("references", [row["reference"]] if "reference" in row else [])
    if not isinstance(references, Sequence) or not all(isinstance(r, str) for r in references):
        raise DatasetError(f"{where}: references must be a list of texts, got {references!r}")
    rest = {k: v for k, v in row.items() if k not in (key, "references", "reference")}
    return Example(prompt=prompt, references=tuple(references), metadata=rest)
