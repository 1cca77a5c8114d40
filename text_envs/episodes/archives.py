"""The members of a data set's file, each of its own type and of a size that was asked about first.

A checksum tells that a file is what somebody wrote, not that it was written by `save`. Sizes are
compared with what they claim to hold before memory is taken, and no number changes its type: a
complex reward, a token of 3.5 and a start of -1 are errors, not numbers that are rounded.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.writing import FORMAT

__all__ = ["Header", "read_archive"]

HEADER = "header.json"

# Numpy's kinds that each array may have, and whether it has one value an episode.
_ARRAYS = {
    "tokens": ("ui", False),
    "roles": ("ui", False),
    "starts": ("ui", True),
    "lengths": ("ui", True),
    "rewards": ("f", False),
    "example_indices": ("ui", True),
    "finish_codes": ("ui", True),
    "truncated": ("b", True),
}
_KINDS = {"u": "integers", "i": "integers", "f": "floats", "b": "booleans", "U": "strings"}

# A row of a data set is a text; and no deflated array of `save` shrinks more than 1032 times.
_MOST_COLUMNS = 2**24
_RATIO, _SLACK = 1100, 2**16
# Padding is stored nowhere, so that a small file may ask for many columns: at most so many values.
_MOST_VALUES = 2**31


@dataclass(frozen=True)
class Header:
    """What `header.json` says, checked."""

    num_columns: int
    pad: int
    finish_reasons: list[str]
    columns: list[str]
    metadata: dict[str, Any]


def read_archive(
    archive: zipfile.ZipFile, size: int, source: str
) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Return the header and the arrays of a file.

    Args:
        archive: the file.
        size: its bytes.
        source: its name, for messages.

    Raises:
        DatasetError: a member is missing, too much, too large or of another type.
    """
    members = {info.filename: info for info in archive.infolist()}
    total = sum(info.file_size for info in archive.infolist())
    if total > _RATIO * size + _SLACK or len(members) < len(archive.infolist()):
        raise DatasetError(
            f"{source}: {size} bytes would unpack to {total} in {len(archive.infolist())} members; "
            "a data set is not packed like that"
        )
    if HEADER not in members:
        raise DatasetError(f"{source}: the file is no data set (KeyError: it has no {HEADER})")
    header = _header(archive.read(HEADER), source)
    fields = {
        **_ARRAYS,
        **{f"column_{i}": ("uifbU", True) for i in range(len(header.columns))},
    }
    for name in (f"{field}.npy" for field in fields):
        if name not in members:
            raise DatasetError(f"{source}: the file is no data set (KeyError: it has no {name})")
    for name in members.keys() - {HEADER, *(f"{field}.npy" for field in fields)}:
        raise DatasetError(f"{source}: the file holds {name!r}, which is no member of a data set")
    arrays = {
        field: _array(archive, members[f"{field}.npy"], kinds, f"{source}: {field}")
        for field, (kinds, _) in fields.items()
    }
    count = len(arrays["lengths"])
    for field, (_, each) in fields.items():
        if each and len(arrays[field]) != count:
            raise DatasetError(
                f"{source}: {field} must have one value for each of {count} episodes, got "
                f"{len(arrays[field])}"
            )
    if count * header.num_columns > _MOST_VALUES and count:
        raise DatasetError(
            f"{source}: {HEADER}: num_columns is {header.num_columns}, which {count} episodes make "
            f"more than {_MOST_VALUES} values"
        )
    return header, arrays


def _header(content: bytes, source: str) -> Header:
    where = f"{source}: {HEADER}"
    facts = _object(content, where)
    names = ("format", "num_columns", "pad", "finish_reasons", "columns", "metadata")
    for name in names:
        if name not in facts:
            raise DatasetError(f"{where} has no {name!r}")
    if facts["format"] != FORMAT or isinstance(facts["format"], bool):
        raise DatasetError(
            f"{source}: format {facts['format']!r} is not known here; accepted: {FORMAT}"
        )
    for name, most in (("num_columns", _MOST_COLUMNS), ("pad", 2**63 - 1)):
        value = facts[name]
        if type(value) is not int or not 0 <= value <= most:
            raise DatasetError(f"{where}: {name} must be an integer in 0..{most}, got {value!r}")
    for name in ("finish_reasons", "columns"):
        _check_words(f"{where}: {name}", facts[name])
    if not isinstance(facts["metadata"], Mapping):
        raise DatasetError(f"{where}: metadata must be an object, got {facts['metadata']!r}")
    return Header(**{name: facts[name] for name in names[1:]})


def _object(content: bytes, where: str) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is no JSON: {error}") from error
    if not isinstance(facts, dict):
        raise DatasetError(f"{where} must be an object, got {type(facts).__name__}")
    return facts


def _check_words(where: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise DatasetError(f"{where} must be a list of strings, got {value!r}")
    if len(set(value)) < len(value):
        raise DatasetError(f"{where} must be different, got {value!r}")


def _array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str, where: str
) -> NDArray[Any]:
    """Return a member `(n,)`, whose header is read before its numbers."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise DatasetError(f"{where} has the unknown version {version} of numpy's format")
        number = "_1_0" if version == (1, 0) else "_2_0"
        shape, _, dtype = getattr(np.lib.format, f"read_array_header{number}")(stream)
    source, field = where.rsplit(": ", 1)
    if dtype.hasobject:
        raise DatasetError(
            f"{source}: the file is no data set (ValueError: Object arrays are never read: {field})"
        )
    accepted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
    if len(shape) != 1 or dtype.kind not in kinds:
        raise DatasetError(
            f"{where} must hold {accepted} of shape (n,), got {dtype} of shape {shape}"
        )
    if shape[0] * dtype.itemsize > member.file_size:
        raise DatasetError(
            f"{where} says to hold {shape[0]} values of {dtype.itemsize} bytes, its member has "
            f"{member.file_size}"
        )
    with archive.open(member) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    if dtype.kind in "ui" and kinds == "ui" and array.size:
        for index in (int(array.argmin()), int(array.argmax())):
            if not 0 <= int(array[index]) < 2**63:
                raise DatasetError(
                    f"{where}[{index}] must be an integer in 0..2^63 - 1, got {array[index]}"
                )
    return array
