"""The arrays of N running texts: what stands in them, who wrote it, and how a row begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from text_envs.core.copying import OwnsArrays
from text_envs.core.draws import Generators, StartDraws
from text_envs.core.task import Task
from text_envs.episodes.types import EpisodeBatch, Role, Turns
from text_envs.tokens.protocol import end_ids

__all__ = ["Rows", "TokenRows"]

# As plain integers: numpy takes several times as long to compare an array with an enum member.
_PAD, _PROMPT, _ACTION = int(Role.PAD), int(Role.PROMPT), int(Role.ACTION)

Rows = NDArray[np.int64]


class TokenRows(OwnsArrays):
    """N rows of one task.

    Attributes:
        tokens: `(N, L)` int64, the observations; `L = prompt_length + max_tokens`.
        position: `(N,)` the next column to write.
        running: `(N,)` True between a start and the end of the episode.
        example_index: `(N,)` the example each row is about.
        rngs: one generator a row: row i of a batch behaves as a single environment would that
            was seeded like row i.
    """

    def __init__(
        self, task: Task, num_envs: int, rngs: Sequence[np.random.Generator] | None = None
    ) -> None:
        """Make the arrays; no row is running yet.

        Args:
            task: what the rows are about.
            num_envs: number of rows N.
            rngs: one generator a row; None for fresh ones.
        """
        self.task = task
        self.num_envs = num_envs
        self.prompt_length = task.prompt_length
        self.num_columns = task.prompt_length + task.max_tokens
        tokenizer = self.tokenizer = task.tokenizer
        # One table look-up tells whether a token ends the turn. An id that stands for no text
        # (a special token of a foreign tokenizer) ends it too: a random agent must be able to
        # draw it, and a sequence must never contain it.
        self._ends_turn = np.array(tokenizer.forbidden, dtype=bool)
        self._any_forbidden = bool(self._ends_turn.any())
        self._ends_turn[list(end_ids(tokenizer))] = True
        self._allowed = np.array(~np.asarray(tokenizer.forbidden, dtype=bool), dtype=np.int8)
        self._allowed.flags.writeable = False
        self._stops = task.stops
        # What `TokenEngine.write_one` leaves to `advance`: what ends a turn, or may do so.
        self._may_end = self._ends_turn
        if self._stops is not None:
            self._may_end = self._ends_turn | self._stops.may_complete

        self.tokens = np.full((num_envs, self.num_columns), tokenizer.pad_id, dtype=np.int64)
        self._offset = np.arange(num_envs, dtype=np.int64) * self.num_columns
        self.all_rows = np.arange(num_envs, dtype=np.int64)
        # Only prefixes and replies are marked; that all other generated columns are actions
        # needs no write per step.
        self.marks = np.zeros((num_envs, self.num_columns), dtype=np.int8)
        self.marked = task.multi_turn
        self._unmarked_roles = np.full(self.num_columns, _ACTION, dtype=np.int8)
        self._unmarked_roles[: self.prompt_length] = _PROMPT
        self.position = np.full(num_envs, self.prompt_length, dtype=np.int64)
        self.turn_start = self.position.copy()
        self.prefix_stop = self.position.copy()
        self.running = np.zeros(num_envs, dtype=bool)
        self.example_index = np.full(num_envs, -1, dtype=np.int64)
        self.memory = task.memory(num_envs)
        if rngs is None:
            rngs = [seeding.np_random()[0] for _ in range(num_envs)]
        self.rngs: list[np.random.Generator] = list(rngs)
        self.draws = StartDraws(num_envs, len(task))

    @property
    def _flat(self) -> NDArray[np.int64]:
        """All columns in one line: a view, made anew, because a copy of the rows would keep one."""
        return self.tokens.reshape(-1)

    def set_rng(self, row: int, rng: np.random.Generator) -> None:
        """Give a row its generator; what was drawn ahead from the former one is dropped."""
        self.rngs[row] = rng
        self.draws.drop(row)

    def draw_examples(self, rows: Rows) -> NDArray[np.int64]:
        """Return a uniformly drawn example for each of `rows`, see `StartDraws`."""
        return self.draws.examples(rows, self.rngs)

    def start_seeds(self, rows: Rows) -> list[int]:
        """Return a seed for each start just drawn; what start plug-ins should draw from."""
        return self.draws.seeds(rows, self.rngs)

    def begin(self, rows: Rows, indices: NDArray[np.int64]) -> None:
        """Start an episode about example `indices[i]` in `rows[i]`."""
        self.tokens[rows, self.prompt_length :] = self.tokenizer.pad_id
        self.tokens[rows, : self.prompt_length] = self.task.prompts(indices)
        if self.marked:
            self.marks[rows] = 0
        self.position[rows] = self.turn_start[rows] = self.prefix_stop[rows] = self.prompt_length
        self.example_index[rows] = indices
        self.running[rows] = True
        if self.memory:
            self.task.begin(self.memory, rows, indices, [self.rngs[row] for row in rows.tolist()])

    # -- reading -------------------------------------------------------------------------------

    def turns(self, rows: Rows, rngs: Sequence[np.random.Generator] | None = None) -> Turns:
        """Return the running turns of `rows`, from their first column to what is written of them.

        Args:
            rows: `(B,)`.
            rngs: B generators for whoever looks at them; None for those of the rows.
        """
        return Turns(
            rows=rows,
            tokens=self.tokens[rows],
            start=self.turn_start[rows],
            stop=self.position[rows],
            example_indices=self.example_index[rows],
            memory=self.memory,
            rngs=Generators(self.rngs, rows.tolist()) if rngs is None else rngs,
        )

    def prefix_lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return how many tokens of `rows` were given as a prefix, `(B,)`."""
        lengths: NDArray[np.int64] = (self.marks[rows] == int(Role.PREFIX)).sum(axis=1)
        return lengths

    def roles(self, rows: Rows) -> NDArray[np.int8]:
        """Return who wrote each column of `rows`, `(B, L)`, see `Role`."""
        if not self.marked:  # then whatever is written is the prompt's or the agent's
            filled = self.tokens[rows] != self.tokenizer.pad_id  # (B, L)
            roles: NDArray[np.int8] = filled * self._unmarked_roles
            return roles
        roles = self.marks[rows]
        columns = np.arange(self.num_columns)
        written = columns < self.position[rows][:, None]
        written[:, : self.prompt_length] = False
        roles[written & (roles == _PAD)] = _ACTION
        prompt = self.tokens[rows, : self.prompt_length] != self.tokenizer.pad_id
        roles[:, : self.prompt_length] = np.where(prompt, _PROMPT, _PAD)
        return roles

    def episodes(self, rows: Rows, finish_reasons: Sequence[str]) -> EpisodeBatch:
        """Return a copy of `rows` as episodes."""
        return EpisodeBatch(
            self.tokens[rows],
            self.roles(rows),
            prompt_length=self.prompt_length,
            tokenizer=self.tokenizer,
            example_indices=self.example_index[rows],
            finish_reasons=finish_reasons,
            get_example=self.task.example,
        )

    @property
    def allowed(self) -> NDArray[np.int8]:
        """Which actions may be written, `(num_actions,)` of 0 and 1, read-only.

        The same at every step and in every row: what a row may not write is a matter of the
        tokenizer. So nobody has to make N of them a step, see `mask_of_rows`.
        """
        return self._allowed

    def mask_of_rows(self) -> NDArray[np.int8]:
        """Return what each row may write, `(N, num_actions)`: one row of memory, read-only."""
        return np.broadcast_to(self._allowed, (self.num_envs, len(self._allowed)))

    def action_masks(self) -> NDArray[np.bool_]:
        """Return what each row may write, `(N, num_actions)`, as an array of the caller's own."""
        return self.mask_of_rows().astype(np.bool_)
