"""Good texts as episodes: demonstrations put through the conventions that generations go through.

A reward model sees a generation as a row of tokens that was cut at the task's limit and ends with
the end token where it ended by itself. What a demonstration earns can be compared with what a
generation earns only if it is shown in the same way, so texts and recorded tokens become such rows
here: a generation equal to a demonstration is the same row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.types import EpisodeBatch, Example, Role
from text_envs.tokens.encoding import reference_tokens
from text_envs.tokens.protocol import Tokenizer, end_ids

__all__ = ["Demonstrations", "Rows", "Subject"]

_ACCEPTED = (
    "None (the examples' references), an EpisodeDataset or its file, a sequence with one entry an "
    "example, or a mapping from example indices or prompts; an entry is a text, token ids, or a "
    "list of these"
)


@dataclass(frozen=True)
class Subject:
    """What demonstrations are about: one task's examples and limits.

    Attributes:
        tokenizer: of the task.
        prompt_length: columns of the prompt.
        num_columns: columns of an observation.
        get_example: from an index to its example.
    """

    tokenizer: Tokenizer
    prompt_length: int
    num_columns: int
    get_example: Callable[[int], Example]

    @classmethod
    def of_task(cls, task: Task) -> Subject:
        """Return the subject of every episode of `task`."""
        columns = task.prompt_length + task.max_tokens
        return cls(task.tokenizer, task.prompt_length, columns, task.example)

    @classmethod
    def of_episodes(cls, episodes: EpisodeBatch) -> Subject:
        """Return the subject of finished episodes."""
        return cls(
            episodes.tokenizer,
            episodes.prompt_length,
            episodes.tokens.shape[1],
            episodes.get_example,
        )

    def same_as(self, other: Subject) -> bool:
        """Return whether an index means the same example under the same limits."""
        return (
            self.get_example == other.get_example
            and (self.prompt_length, self.num_columns) == (other.prompt_length, other.num_columns)
            and self.tokenizer == other.tokenizer
        )


Row: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int8], str, int]
"""Tokens `(L,)`, roles `(L,)`, why it ended, and the example's index."""


class Rows(list[Row]):
    """Demonstrations as rows of observations."""

    def batch(self, subject: Subject) -> EpisodeBatch:
        """Return them as finished episodes."""
        tokens, roles, reasons, indices = zip(*self, strict=True)
        return EpisodeBatch(
            np.stack(tokens),
            np.stack(roles),
            prompt_length=subject.prompt_length,
            tokenizer=subject.tokenizer,
            example_indices=np.array(indices, dtype=np.int64),
            finish_reasons=reasons,
            get_example=subject.get_example,
        )


class Demonstrations:
    """Where the demonstrations of an example are found."""

    def __init__(self, source: Any = None) -> None:
        """Remember the source.

        Args:
            source: None for the examples' references; an `EpisodeDataset` or its file, by example
                indices, truncated episodes left out; a sequence with one entry an example; a
                mapping from example indices or prompts. An entry is a text, token ids, or a
                list of these.

        Raises:
            TypeError: anything else.
            DatasetError: a file that cannot be read.
        """
        if isinstance(source, str | os.PathLike):
            # Here, because data sets are collected in environments, which have rewards.
            from text_envs.episodes.files import load

            source = load(source)
        self._rows_of: dict[int, list[int]] | None = None
        if hasattr(source, "example_indices") and hasattr(source, "roles"):
            self._rows_of = {}
            for row in np.flatnonzero(~np.asarray(source.truncated)).tolist():
                self._rows_of.setdefault(int(source.example_indices[row]), []).append(row)
        elif isinstance(source, Mapping):
            wrong = [key for key in source if not isinstance(key, str | int | np.integer)]
            if wrong:
                raise TypeError(
                    f"demonstrations have the key {wrong[0]!r}; accepted: example indices, prompts"
                )
        elif source is not None and not isinstance(source, Sequence):
            raise TypeError(f"demonstrations are a {type(source).__name__}; accepted: {_ACCEPTED}")
        self._source = source

    def __deepcopy__(self, memo: dict[int, Any]) -> Demonstrations:
        return self  # only ever read

    def check(self, examples: int) -> None:
        """Check that demonstrations are of a task with so many examples.

        Raises:
            ValueError: there are some for examples that the task does not have.
        """
        numbers: list[int] = []
        if self._rows_of is not None:
            numbers = list(self._rows_of)
        elif isinstance(self._source, Mapping):
            numbers = [int(key) for key in self._source if not isinstance(key, str)]
        elif self._source is not None:
            numbers = list(range(len(self._source)))[-1:]
        wrong = [number for number in numbers if not 0 <= number < examples]
        if wrong:
            raise ValueError(
                f"there is a demonstration of example {wrong[0]}, and the task has the examples "
                f"0..{examples - 1}; the demonstrations belong to another task or split"
            )

    def rows(self, subject: Subject, index: int, prompt: NDArray[np.int64]) -> Rows:
        """Return the demonstrations of one example.

        Args:
            subject: the task's conventions.
            index: the example.
            prompt: `(prompt_length,)` its tokens, as episodes about it begin.

        Returns:
            One row a demonstration; none where the source has none.

        Raises:
            ValueError: a demonstration that cannot be written in this task.
        """
        if self._rows_of is not None:
            numbers = self._rows_of.get(index, [])
            return Rows(self._recorded(subject, index, prompt, number) for number in numbers)
        rows = Rows()
        for text in self._entries(subject, index):
            where = f"demonstration {len(rows)} of example {index}"
            rows.append(_as_row(subject, index, prompt, _as_actions(subject, text, where)))
        return rows

    def _entries(self, subject: Subject, index: int) -> list[Any]:
        """Return the texts, or the token ids, that demonstrate example `index`."""
        if self._source is None:
            return list(subject.get_example(index).references)
        if isinstance(self._source, Mapping):
            entry = self._source.get(index)
            if entry is None:
                entry = self._source.get(subject.get_example(index).prompt)
        else:
            entry = self._source[index] if index < len(self._source) else None
        if entry is None:
            return []
        if isinstance(entry, str) or (len(entry) and isinstance(entry[0], int | np.integer)):
            return [entry]
        return list(entry)

    def _recorded(
        self, subject: Subject, index: int, prompt: NDArray[np.int64], number: int
    ) -> Row:
        """Return a recorded episode as the task of today would have recorded it."""
        tokens, roles = self._source.tokens[number], self._source.roles[number]
        pad = subject.tokenizer.pad_id
        if not np.array_equal(tokens[roles == int(Role.PROMPT)], prompt[prompt != pad]):
            raise ValueError(
                f"recorded episode {number} demonstrates example {index} with another prompt than "
                f"this task has: {subject.tokenizer.decode(prompt.tolist())!r}; the data belong "
                "to another task or split"
            )
        if not (roles == int(Role.REPLY)).any():
            written = tokens[(roles == int(Role.ACTION)) | (roles == int(Role.PREFIX))]
            actions = _as_actions(subject, written, f"recorded episode {number}")
            return _as_row(subject, index, prompt, actions)
        if len(tokens) != subject.num_columns:
            raise ValueError(
                f"recorded episode {number} has {len(tokens)} columns, this task "
                f"{subject.num_columns}; a dialogue cannot be cut to other limits"
            )
        return tokens, roles, self._source.finish_reasons[number], index


def _as_actions(subject: Subject, text: Any, where: str) -> list[int]:
    """Return a text or token ids as the actions that write it, cut at the limit."""
    tokenizer, room = subject.tokenizer, subject.num_columns - subject.prompt_length
    if isinstance(text, str):
        actions = reference_tokens(text, tokenizer, room)
        if text.strip() and actions[0] == tokenizer.eos_id:
            raise ValueError(f"{where} has nothing that the task's tokenizer can write: {text!r}")
        return actions
    if np.ndim(text) != 1:
        raise ValueError(f"{where} is {text!r}; accepted: a text, or token ids")
    actions, end, ends = [], tokenizer.eos_id, end_ids(tokenizer)
    for token in np.asarray(text).tolist():
        if not isinstance(token, int) or not 0 <= token < tokenizer.num_actions:
            raise ValueError(
                f"{where} holds the token {token!r}; accepted: 0..{tokenizer.num_actions - 1}"
            )
        if token in ends:
            end = token
            break
        if tokenizer.forbidden[token]:
            raise ValueError(f"{where} holds the token {token}, which may not be written")
        actions.append(token)
    return [*actions, end][:room]


def _as_row(subject: Subject, index: int, prompt: NDArray[np.int64], actions: Sequence[int]) -> Row:
    first, pad = subject.prompt_length, subject.tokenizer.pad_id
    tokens = np.full(subject.num_columns, pad, dtype=np.int64)
    tokens[:first] = prompt
    tokens[first : first + len(actions)] = actions
    roles = np.zeros(subject.num_columns, dtype=np.int8)
    roles[:first] = np.where(prompt == pad, int(Role.PAD), int(Role.PROMPT))
    roles[first : first + len(actions)] = int(Role.ACTION)
    reason = "stop" if actions[-1] in end_ids(subject.tokenizer) else "length"
    return tokens, roles, reason, index
