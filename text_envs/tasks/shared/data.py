"""Examples from a user's own data: files, tables, lists, data sets of the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example
from text_envs.tasks.shared import conversation
from text_envs.tasks.shared.files import Row, read_lines
from text_envs.tasks.shared.sources import name_of, read_hub, rows_of

__all__ = ["load_examples", "read_hub", "read_lines"]

_REFERENCES = ("references", "reference")


def load_examples(
    dataset: Any,
    *,
    split: str = "train",
    prompt_column: str | None = None,
    reference_column: str | None = None,
    field: str | None = None,
    fields: Sequence[str] = ("prompt", "text", "messages"),
) -> list[Example]:
    """Return the examples of a data set.

    Args:
        dataset: what `text_envs.tasks.shared.sources.rows_of` takes: a `.txt` file (a prompt a
            line), `.csv`, `.tsv`, `.json`, `.jsonl` or `.parquet` (each also with `.gz` behind), a
            Hub name, a folder, a `Dataset`, a `DatasetDict`, a table of pandas, a list of texts,
            lists of messages, mappings or `Example`s.
        split: the split of a Hub data set or a `DatasetDict`, and of rows with a key `split`.
        prompt_column: the key that holds the prompt; default the first of `fields` that there is.
        reference_column: the key that holds a reference, or a list of them; default `references`,
            then `reference`, and none where there is neither.
        field: an older name of `prompt_column`.
        fields: the keys tried in turn. All keys that are neither prompt nor reference become
            metadata.

    A prompt may be a list of messages, `[{"role": "user", "content": "..."}]`, as TRL's data sets
    have them: a column `prompt`, whose answer stands in `completion` or `chosen` where there is no
    reference; or a column `messages`, whose last message, if it is the assistant's, is the
    reference. Example: `{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}`.

    Raises:
        DatasetError: a missing or empty file, text that is not UTF-8, a malformed line, a row
            without the column; the message names the file, the line and the columns that there are.
        ValueError: `field` and `prompt_column` are given and differ.
    """
    if field is not None and prompt_column not in (None, field):
        raise ValueError(
            f"field is an older name of prompt_column; got field={field!r} and "
            f"prompt_column={prompt_column!r}"
        )
    wanted = prompt_column if field is None else field
    columns = fields if wanted is None else (wanted,)
    examples = [
        example
        for row in rows_of(dataset, split)
        if (example := _as_example(row, split, columns, reference_column))
    ]
    if not examples:
        raise DatasetError(f"{name_of(dataset)}: no examples in split {split!r}")
    return examples


def _as_example(
    row: Row, split: str, columns: Sequence[str], reference_column: str | None
) -> Example | None:
    """Return the example of one item, or None if it belongs to another split."""
    fields, where = row.value, row.full_where
    if isinstance(fields, Example):
        return fields
    if isinstance(fields, str):
        return Example(prompt=str(fields))
    if conversation.is_messages(fields):
        return Example(prompt=conversation.as_chat(fields, where))
    if not isinstance(fields, Mapping):
        raise DatasetError(f"{row.where}: {_expected(row)}, got {type(fields).__name__}")
    if fields.get("split", split) != split:
        return None
    key = next((name for name in columns if name in fields), None)
    if key is None:
        raise _missing(where, columns, fields)
    prompt = fields[key]
    answer: tuple[str, ...] = ()
    if not isinstance(prompt, str):
        prompt, answer = conversation.read(fields, key, where)
    if reference_column is not None and reference_column not in fields:
        raise _missing(where, (reference_column,), fields)
    names = _REFERENCES if reference_column is None else (reference_column,)
    source = next((name for name in names if name in fields), None)
    references = answer if source is None else _texts(fields[source], source, where)
    rest = {k: v for k, v in fields.items() if k not in (key, *names)}
    return Example(prompt=prompt, references=references, metadata=rest)


def _expected(row: Row) -> str:
    return "expected a text or a mapping" if row.line is None else "expected a JSON object"


def _missing(where: str, columns: Sequence[str], fields: Mapping[str, Any]) -> DatasetError:
    wanted = " or ".join(repr(name) for name in columns if name != "messages" or len(columns) == 1)
    if {"role", "content"} <= fields.keys():
        return DatasetError(
            f"{where}: a single message, where a prompt is expected; accepted: a list of prompts, "
            "each a list of messages: [[{'role': ..., 'content': ...}], ...]"
        )
    return DatasetError(f"{where}: no field {wanted}; it has {', '.join(map(repr, fields))}")


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    """Return the references of a row; a missing one is none."""
    if value is None or value != value:  # what tables have where nothing was written
        return ()
    if isinstance(value, str) and name != "references":
        return (value,)
    if conversation.is_messages(value):
        return conversation.answers(value, name, where)
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or not all(isinstance(text, str) for text in value):
        raise DatasetError(f"{where}: {name} must be a list of texts, got {value!r}")
    return tuple(value)
