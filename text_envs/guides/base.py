"""What a guide is: a writer of turns that is asked, checked and counted."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.errors import GuideError
from text_envs.episodes.types import Example, Turns
from text_envs.tokens.protocol import end_ids

__all__ = ["Completion", "Guide", "Queries", "Query"]

Completion: TypeAlias = str | Sequence[int]
"""A text, which is the rest of a turn; or token ids, with the end token where the turn ends."""

# Characters of a prompt or an answer that a message shows.
_SHOWN = 120


@dataclass
class Queries:
    """What a guide has been asked so far; guides may be costly.

    Attributes:
        calls: calls of the guide.
        rows: texts it was asked to continue.
        tokens: tokens it wrote, before any are dropped.
    """

    calls: int = 0
    rows: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Query(Turns):
    """The rows a guide continues: the arrays of `Turns`, and on demand the texts.

    Columns `start` to `stop` are what stands of the current turn already.

    Attributes:
        task: whose texts.
        room: `(B,)` tokens that still fit into the turn, the end token included.
    """

    task: Task
    room: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def texts(self) -> list[str]:
        """Everything so far: prompt, what has been written, replies."""
        return [self.task.tokenizer.decode(row) for row in self.tokens.tolist()]

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts alone."""
        prompts = self.tokens[:, : self.task.prompt_length]
        return [self.task.tokenizer.decode(row) for row in prompts.tolist()]

    @cached_property
    def examples(self) -> list[Example]:
        """The items of the task that the texts started from."""
        return [self.task.example(index) for index in self.example_indices.tolist()]


class Guide(ABC):
    """A `text_envs.core.playing.Writer` from a foreign source; make one with `as_guide`.

    Attributes:
        task: whose texts it continues.
        name: by which messages speak of it.
        strict: whether a completion that is empty or too long is an error.
        queries: what it has been asked; shared with copies for other tasks.
    """

    def __init__(self, task: Task, name: str, *, strict: bool = True) -> None:
        self.task, self.name, self.strict = task, name, strict
        self.queries = Queries()

    @abstractmethod
    def write(self, query: Query) -> Sequence[Completion]:
        """Return a completion of each row; all that is foreign about a guide."""

    def fits(self, task: Task) -> bool:
        """Return whether `task` has the tokens, columns and turns of this guide's own."""
        names = ("tokenizer", "prompt_length", "max_tokens", "max_turn_tokens", "multi_turn")
        return all(getattr(task, name) == getattr(self.task, name) for name in names)

    def on(self, task: Task) -> Guide:
        """Return this guide for another task of the same shape, sharing models and `queries`.

        Raises:
            GuideError: the task has other tokens, columns or turns.
        """
        if task is self.task:
            return self
        if not self.fits(task):
            raise GuideError(
                f"guide {self.name} was made for {type(self.task).__name__} with "
                f"{self.task.tokenizer!r}, prompt_length={self.task.prompt_length}, "
                f"max_tokens={self.task.max_tokens}; {type(task).__name__} has "
                f"{task.tokenizer!r}, {task.prompt_length}, {task.max_tokens}. Make one for it: "
                "as_guide(source, task)",
                guide=self.name,
            )
        other = copy.copy(self)
        other.task = task
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Guide:
        return self  # frozen; and Gymnasium copies the arguments of environments

    def fork(self) -> Guide:
        """Return a guide that goes on like this one and counts for itself."""
        other = copy.copy(self)
        other.queries = replace(self.queries)
        return other

    def __call__(self, turns: Turns) -> list[list[int]]:
        """Return the next tokens of each row, checked.

        Raises:
            GuideError: the guide raised, returned another number of completions, or one that is
                empty, too long or no sequence of tokens that may be written.
        """
        query = self._query(turns)
        self.queries.calls += 1
        self.queries.rows += len(query)
        try:
            received = self.write(query)
        except GuideError:
            raise
        except Exception as error:
            raise GuideError(
                f"guide {self.name} raised {type(error).__name__}: {error}, asked to continue "
                f"{len(query)} texts, the first: {_short(query.texts[0])}",
                guide=self.name,
                prompt=query.texts[0],
            ) from error
        unordered = isinstance(received, str | bytes | Mapping | Set)
        if unordered or not hasattr(received, "__len__"):
            raise self._error(query, None, "no list of completions", received)
        if len(received) != len(query):
            what = f"{len(received)} completions for {len(query)} texts"
            raise self._error(query, None, what, received)
        received = list(received)
        encoded = [self._encode(query, i, received) for i in range(len(query))]
        self.queries.tokens += sum(map(len, encoded))
        return [self._fit(query, i, tokens, received) for i, tokens in enumerate(encoded)]

    def _query(self, turns: Turns) -> Query:
        task = self.task
        room = turns.tokens.shape[1] - turns.stop
        if task.max_turn_tokens is not None:
            room = np.minimum(room, task.max_turn_tokens - (turns.stop - turns.start))
        given = {field.name: getattr(turns, field.name) for field in fields(Turns)}
        return Query(**given, task=task, room=room)

    def _encode(self, query: Query, i: int, received: Any) -> list[int]:
        """Return completion `i` as ids that may be written, up to the end of the turn."""
        tokenizer, completion = self.task.tokenizer, received[i]
        ends = end_ids(tokenizer)
        if isinstance(completion, str):
            tokens = list(tokenizer.encode(completion))
            if tokens and tokens[-1] not in ends:
                tokens.append(tokenizer.eos_id)
        else:
            ids = _token_ids(completion)
            if ids is None:
                raise self._error(query, i, "neither a text nor token ids", received)
            tokens = ids
            while tokens and tokens[-1] == tokenizer.pad_id:
                tokens.pop()
        if len(tokens) == query.room[i] + 1 and tokens[-1] in ends:
            tokens.pop()  # at the limit, a turn ends without
        stop = next((place for place, token in enumerate(tokens, 1) if token in ends), None)
        if stop is not None:
            if set(tokens[stop:]) - {*ends, tokenizer.pad_id}:
                raise self._error(query, i, f"tokens after the end at {stop - 1}", received)
            tokens = tokens[:stop]
        for place, token in enumerate(tokens):
            if not 0 <= token < tokenizer.num_actions or tokenizer.forbidden[token]:
                known = 0 <= token < tokenizer.vocab_size
                word = f", {tokenizer.decode([token])!r}," if known else ""
                what = f"token {token}{word} at place {place}, which may not be written"
                raise self._error(query, i, what, received)
        return tokens

    def _fit(self, query: Query, i: int, tokens: list[int], received: Any) -> list[int]:
        room = int(query.room[i])
        if not tokens:
            if self.strict:
                raise self._error(query, i, "nothing", received)
            return [self.task.tokenizer.eos_id]
        if len(tokens) > room:
            if self.strict:
                raise self._error(query, i, f"{len(tokens)} tokens", received)
            return tokens[:room]
        return tokens

    def _error(self, query: Query, i: int | None, what: str, received: Any) -> GuideError:
        """Return the error that names all there is to know about an answer."""
        task, row = self.task, 0 if i is None else i
        answer = received if i is None else received[i]
        lenient = "; strict=False cuts what is too long and ends the turn where nothing is written"
        return GuideError(
            f"guide {self.name} returned {what} (row {row} of {len(query)}): {_short(answer)}, "
            f"asked to continue {_short(query.texts[row])}. Accepted: one completion a row, a text "
            f"or ids 0..{task.tokenizer.num_actions - 1}, of 1..{int(query.room[row])} tokens"
            f"{lenient if self.strict else ''}",
            guide=self.name,
            row=row,
            prompt=query.texts[row],
            received=received,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.queries})"


def _token_ids(completion: Any) -> list[int] | None:
    """Return a flat sequence of integers as a list; None for anything else."""
    try:
        ids = np.asarray(completion)
    except (TypeError, ValueError):  # ragged, or on another device
        return None
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        return None
    return [int(token) for token in ids]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
