"""What recorded episodes must satisfy, checked once for all episodes by array operations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Role

__all__ = ["EARNING", "normalised"]

EARNING = (int(Role.ACTION), int(Role.PREFIX))
"""Who may earn rewards: a guide's tokens do as the agent's do, and may be all there is."""

_ROLES = ", ".join(f"{int(role)} {role.name}" for role in Role)


def normalised(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an `EpisodeDataset` with their types.

    Raises:
        DatasetError: they contradict themselves or each other; the message names the file
            (`fields["source"]`), the episode and the field.
    """
    check = _Checks(str(fields["source"]))
    tokens = check.rows("tokens", fields["tokens"], None, "iu", np.int64)
    count = len(tokens)
    truncated = fields["truncated"]
    if truncated is None:
        truncated = np.zeros(count, dtype=bool)
    typed: dict[str, Any] = {
        "tokens": tokens,
        "roles": check.rows("roles", fields["roles"], tokens, "iu", np.int8),
        "rewards": check.rows("rewards", fields["rewards"], tokens, "iuf", np.float64),
        "example_indices": check.one_each(
            "example_indices", fields["example_indices"], count, "iu"
        ).astype(np.int64),
        "finish_reasons": check.reasons(fields["finish_reasons"], count),
        "truncated": check.one_each("truncated", truncated, count, "b"),
        "columns": check.columns(fields["columns"], count),
        "metadata": check.metadata(fields["metadata"]),
    }
    check.values(typed)
    check.shapes_of_episodes(typed["tokens"], typed["roles"], typed["metadata"])
    return typed


class _Checks:
    """The single checks; each raises an error that begins with the file."""

    def __init__(self, source: str) -> None:
        self.prefix = f"{source}: " if source else ""

    def error(self, message: str) -> DatasetError:
        return DatasetError(self.prefix + message)

    def at(self, field: str, wrong: NDArray[np.bool_], message: str, values: Any = None) -> None:
        """Raise about the first True of `wrong` `(B,)` or `(B, L)`, if there is one."""
        if not wrong.any():
            return
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        column = f", column {place[1]}" if len(place) > 1 else ""
        got = "" if values is None else f", got {values[place].item()!r}"
        raise self.error(f"episode {place[0]}{column}: {field} {message}{got}")

    def rows(
        self, field: str, given: Any, tokens: NDArray[np.int64] | None, kinds: str, dtype: Any
    ) -> NDArray[Any]:
        """Return `(B, L)`; of the shape of `tokens`, where these are known."""
        if tokens is not None:
            self._same_rows(field, given, tokens)
        try:
            array = np.asarray(given)
        except ValueError as error:  # rows of different lengths
            raise self.error(f"{field} must have the shape (B, L): {error}") from error
        if array.ndim != 2 or (array.dtype.kind not in kinds and array.size):
            what = "integers" if kinds == "iu" else "numbers"
            raise self.error(
                f"{field} must be {what} of shape (B, L), got {array.dtype} of shape {array.shape}"
            )
        if dtype == np.int8 and array.size:  # before the cast, which would wrap around
            self.at(field, (array < 0) | (array >= len(Role)), f"must be one of {_ROLES}", array)
        return array.astype(dtype, copy=False)

    def _same_rows(self, field: str, given: Any, tokens: NDArray[np.int64]) -> None:
        if not hasattr(given, "__len__"):
            raise self.error(f"{field} must have the shape (B, L), got {given!r}")
        if len(given) != len(tokens):
            raise self.error(f"{field} has {len(given)} episodes, tokens has {len(tokens)}")
        if isinstance(given, np.ndarray) and given.shape == tokens.shape:
            return
        for episode, row in enumerate(given):
            if np.shape(row) != (tokens.shape[1],):
                raise self.error(
                    f"episode {episode}: {field} has the shape {np.shape(row)}, its tokens have "
                    f"{(tokens.shape[1],)}"
                )

    def one_each(self, field: str, given: Any, count: int, kinds: str) -> NDArray[Any]:
        """Return `(B,)`."""
        array = np.asarray(given)
        if array.dtype == object and all(isinstance(value, str) for value in array.flat):
            array = array.astype(np.str_)
        if array.shape != (count,):
            raise self.error(
                f"{field} must have one value for each of {count} episodes, got shape {array.shape}"
            )
        if array.dtype.kind not in kinds and array.size:
            names = {"i": "integers", "b": "booleans", "f": "floats", "U": "strings"}
            accepted = ", ".join(names[kind] for kind in kinds if kind in names)
            raise self.error(f"{field} must hold {accepted}, got {array.dtype}")
        return array

    def reasons(self, given: Sequence[str], count: int) -> tuple[str, ...]:
        if len(given) != count:
            raise self.error(f"finish_reasons has {len(given)} episodes, tokens has {count}")
        for episode, reason in enumerate(given):
            if not isinstance(reason, str):
                raise self.error(
                    f"episode {episode}: finish_reasons must be a string, got {reason!r}"
                )
        return tuple(str(reason) for reason in given)

    def columns(self, given: Mapping[str, Any], count: int) -> dict[str, NDArray[Any]]:
        for name in given:
            if not isinstance(name, str):
                raise self.error(f"the name of a column must be a string, got {name!r}")
        return {
            name: self.one_each(f"columns[{name!r}]", values, count, "iubfU")
            for name, values in given.items()
        }

    def metadata(self, given: Mapping[str, Any]) -> dict[str, Any]:
        try:
            plain = json.loads(json.dumps(given, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise self.error(f"metadata must be plain JSON values: {error}") from error
        if not isinstance(plain, dict):
            raise self.error(f"metadata must be a mapping, got {type(given).__name__}")
        return plain

    def values(self, typed: Mapping[str, Any]) -> None:
        """Check what single values must satisfy."""
        tokens, rewards = typed["tokens"], typed["rewards"]
        self.at("tokens", tokens < 0, "must be at least 0", tokens)
        self.at("rewards", ~np.isfinite(rewards), "must be finite", rewards)
        elsewhere = (rewards != 0) & ~np.isin(typed["roles"], EARNING)
        self.at("rewards", elsewhere, "must be 0 on a column that is no action", rewards)
        indices = typed["example_indices"]
        self.at("example_indices", indices < 0, "must be at least 0", indices)

    def shapes_of_episodes(
        self, tokens: NDArray[np.int64], roles: NDArray[np.int8], metadata: Mapping[str, Any]
    ) -> None:
        """Check that each episode is one stretch of columns with actions, between padding."""
        written = roles != int(Role.PAD)  # (B, L)
        actions: NDArray[np.bool_] = np.isin(roles, EARNING)
        self.at("roles", np.logical_not(actions.any(axis=1)), "has no ACTION")
        if not len(tokens):
            return
        first, last = written.argmax(axis=1), tokens.shape[1] - 1 - written[:, ::-1].argmax(axis=1)
        hole = written.sum(axis=1) != last - first + 1
        self.at("roles", hole, "has a PAD column between two written ones")
        unseen = actions.argmax(axis=1) == first
        self.at("roles", unseen, "begins with an ACTION; a prompt token must come before")
        empty = tokens[~written]
        pad = _pad_id(metadata, int(empty[0]) if empty.size else None)
        if pad is None:
            return
        message = f"must be the padding {pad} where nobody wrote"
        self.at("tokens", np.logical_and(~written, tokens != pad), message, tokens)
        if "tokenizer" in metadata:
            self.at("tokens", written & (tokens == pad), "is padding on a written column", tokens)


def _pad_id(metadata: Mapping[str, Any], default: int | None) -> int | None:
    facts = metadata.get("tokenizer")
    known = facts.get("pad_id") if isinstance(facts, dict) else None
    return known if isinstance(known, int) else default
