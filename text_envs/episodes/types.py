"""What passes between environments, tasks and reward models: examples, episodes, turns, replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from text_envs.tokens.protocol import Tokenizer, end_ids

__all__ = ["Episode", "EpisodeBatch", "Example", "Replies", "Role", "Turns"]


class Role(IntEnum):
    """Who wrote a column of an observation."""

    PAD = 0  # nobody: the column is empty
    PROMPT = 1
    PREFIX = 2  # given through reset(options={"prefix": ...}), for example by a guide
    ACTION = 3  # the agent, through step
    REPLY = 4  # the environment, between two turns of the agent


# As a table: one look-up instead of two comparisons with enum members, which numpy does slowly.
_BY_AGENT = np.array([role in (Role.PREFIX, Role.ACTION) for role in Role])


@dataclass(frozen=True)
class Example:
    """One item of a task's data.

    Attributes:
        prompt: the text the agent continues.
        references: good continuations, where the data has them.
        metadata: anything else a reward model may need.
    """

    prompt: str
    references: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def _decode(tokenizer: Tokenizer, tokens: NDArray[np.int64]) -> list[str]:
    return [tokenizer.decode(row) for row in tokens.tolist()]


@dataclass(frozen=True, repr=False)
class Episode:
    """One finished episode: a row of an `EpisodeBatch`."""

    batch: EpisodeBatch
    row: int

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return self.batch.prompts[self.row]

    @property
    def text(self) -> str:
        """What the agent wrote, as text."""
        return self.batch.texts[self.row]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The whole row, shape `(L,)`: prompt, actions, replies, padding."""
        row: NDArray[np.int64] = self.batch.tokens[self.row]
        return row

    @property
    def roles(self) -> NDArray[np.int8]:
        """Who wrote each column, shape `(L,)`, see `Role`."""
        row: NDArray[np.int8] = self.batch.roles[self.row]
        return row

    @property
    def example(self) -> Example:
        """The item of the data set that the episode started from."""
        return self.batch.example(self.row)

    @property
    def finish_reason(self) -> str:
        """Why it ended: `stop`, `length`, `forbidden`, or a word of the task's own."""
        return self.batch.finish_reasons[self.row]

    def __repr__(self) -> str:
        return f"Episode({self.prompt!r} -> {self.text!r}, {self.finish_reason!r})"


class EpisodeBatch(Sequence[Episode]):
    """Finished episodes as arrays at once and as text on demand.

    A reward model that lives on tokens never pays for a string; one that needs text asks for
    `texts` and gets all of them decoded in one call.

    Attributes:
        tokens: `(B, L)` int64, the observation columns of each episode.
        roles: `(B, L)` int8, who wrote each column, see `Role`.
        prompt_length: the first generated column.
        example_indices: `(B,)` int64, which item of the task each episode started from.
        finish_reasons: why each episode ended.
        tokenizer: decodes the ids.
        get_example: from an index to the item of the task.
        rngs: one generator an episode, for reward models that draw; None outside environments.
    """

    def __init__(
        self,
        tokens: NDArray[np.int64],
        roles: NDArray[np.int8],
        *,
        prompt_length: int,
        tokenizer: Tokenizer,
        example_indices: NDArray[np.int64],
        finish_reasons: Sequence[str],
        get_example: Callable[[int], Example],
        rngs: Sequence[np.random.Generator] | None = None,
    ) -> None:
        self.tokens = tokens
        self.roles = roles
        self.prompt_length = prompt_length
        self.tokenizer = tokenizer
        self.example_indices = example_indices
        self.finish_reasons = list(finish_reasons)
        self.get_example = get_example
        self.rngs = rngs

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | Sequence[Episode]:
        if isinstance(index, slice):
            return [Episode(self, row) for row in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of a batch of {len(self)}")
        return Episode(self, index % len(self))

    def __repr__(self) -> str:
        return f"EpisodeBatch({len(self)} episodes of up to {self.tokens.shape[1]} columns)"

    def example(self, row: int) -> Example:
        """Return the item of the data set that row `row` started from."""
        return self.get_example(int(self.example_indices[row]))

    @property
    def examples(self) -> list[Example]:
        """The item of the data set that each episode started from."""
        return [self.example(row) for row in range(len(self))]

    @cached_property
    def response(self) -> NDArray[np.int64]:
        """What the agent wrote, `(B, L - prompt_length)`; every other column holds the pad id."""
        tokens = self.tokens[:, self.prompt_length :]
        roles = self.roles[:, self.prompt_length :]
        by_agent = _BY_AGENT[roles]
        for end in end_ids(self.tokenizer):
            by_agent &= tokens != end
        return np.where(by_agent, tokens, self.tokenizer.pad_id)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of words the agent wrote, `(B,)`; end-of-text tokens are not counted."""
        lengths: NDArray[np.int64] = (self.response != self.tokenizer.pad_id).sum(axis=1)
        return lengths

    @cached_property
    def texts(self) -> list[str]:
        """What the agent wrote, as text."""
        return _decode(self.tokenizer, self.response)

    @cached_property
    def transcripts(self) -> list[str]:
        """Everything after the prompt, the environment's replies included, as text."""
        return _decode(self.tokenizer, self.tokens[:, self.prompt_length :])

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts as text."""
        return _decode(self.tokenizer, self.tokens[:, : self.prompt_length])


@dataclass(frozen=True)
class Turns:
    """The rows whose agent has just ended a turn; what a multi-turn task replies to.

    Attributes:
        rows: `(B,)` the rows of the environment, and of `memory`.
        tokens: `(B, L)` the observation columns.
        start: `(B,)` first column of the turn.
        stop: `(B,)` one past the turn's last column; the end-of-turn token is included.
        example_indices: `(B,)` which item each row is about.
        memory: the task's own arrays, `(num_envs, ...)`; write to `memory[name][rows]`.
        rngs: `(B,)` one generator a row.
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    example_indices: NDArray[np.int64]
    memory: Mapping[str, NDArray[Any]]
    rngs: Sequence[np.random.Generator]


@dataclass(frozen=True)
class Replies:
    """A task's answer to `Turns`.

    Attributes:
        tokens: `(B, R)` reply tokens, right-padded with the pad id; ignored where `done`.
        rewards: `(B,)` reward of the turn, paid on the token that ended it.
        done: `(B,)` True where the episode is over.
        finish_reasons: one word a row; read where `done`.
    """

    tokens: NDArray[np.int64]
    rewards: NDArray[np.float64]
    done: NDArray[np.bool_]
    finish_reasons: Sequence[str]
