"""The token-level MDP on arrays: writing tokens, ending turns and episodes, asking for rewards.

The engine knows nothing of Gymnasium. It moves rows of preallocated arrays forward; what to do
with a finished row (reset it now, at the next step, or not at all) is decided by its callers,
`envs.vector.TokenVectorEnv` and `envs.single.TokenEnv`, which are two thin faces of this file.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.copying import fork_of
from text_envs.core.ledger import SHAPING
from text_envs.core.outcome import Outcome
from text_envs.core.plugins import Shaping, Starts
from text_envs.core.record import Record
from text_envs.core.reward import RewardModel
from text_envs.core.rows import Rows
from text_envs.core.settling import SettledRows
from text_envs.core.task import Task
from text_envs.episodes.types import Role

__all__ = ["Outcome", "TokenEngine"]

_ACTION = int(Role.ACTION)
_PLUGINS = ("_reward_model", "shaping", "starts")


class TokenEngine(SettledRows):
    """Rows of one task that can be stepped.

    Attributes:
        starts: writes the first tokens of an episode, or None.
        record: rewards and scores by column, for pictures; None where nothing is drawn.
    """

    def __init__(
        self,
        task: Task,
        reward_model: RewardModel | None,
        num_envs: int,
        *,
        shaping: Shaping | None = None,
        starts: Starts | None = None,
        max_episode_steps: int | None = None,
        rngs: Sequence[np.random.Generator] | None = None,
    ) -> None:
        super().__init__(
            task,
            reward_model,
            num_envs,
            shaping=shaping,
            max_episode_steps=max_episode_steps,
            rngs=rngs,
        )
        self.starts = starts
        for plugin in (shaping, starts):
            if plugin is not None:
                plugin.bind(task)
        self.record: Record | None = None
        self._unguided = np.zeros(num_envs, dtype=bool)
        self._failure: BaseException | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenEngine:
        """Return an engine whose rows go on as these would, sharing nothing that changes."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        for name, value in vars(self).items():
            copied = fork_of(value, memo) if name in _PLUGINS else copy.deepcopy(value, memo)
            setattr(made, name, copied)
        return made

    # -- starting ------------------------------------------------------------------------------

    def begin(self, rows: Rows, indices: NDArray[np.int64]) -> None:
        """Start an episode about example `indices[i]` in `rows[i]`."""
        self.forget_failure(rows)
        super().begin(rows, indices)
        if self.record is not None:
            self.record.clear(rows)

    def restart(self, rows: Rows) -> None:
        """Start an episode about a drawn example in each of `rows`, after a step that ended one.

        The step must not lose its results: where the start plug-in fails, the rows start without
        a prefix, and the next step raises, see `raise_failure`.
        """
        self.begin(rows, self.draw_examples(rows))
        try:
            self.roll_in(rows)
        except BaseException as error:  # of the plug-in: half a prefix is no start either
            self.begin(rows, self.example_index[rows])
            self._unguided[rows], self._failure = True, error

    def raise_failure(self) -> None:
        """Raise, once, what the start plug-in raised while the step before restarted rows."""
        if self._failure is None:
            return
        error, rows = self._failure, np.flatnonzero(self._unguided).tolist()
        self._failure, self._unguided[:] = None, False
        if hasattr(error, "add_note"):
            error.add_note(
                f"raised while rows {rows} started again; the step that ended them was completed, "
                "they stand at their prompts without a prefix, and stepping can go on"
            )
        raise error

    @property
    def failure(self) -> tuple[BaseException | None, NDArray[np.bool_]]:
        """What `raise_failure` will raise, and about which rows."""
        return self._failure, self._unguided.copy()

    @failure.setter
    def failure(self, kept: tuple[BaseException | None, NDArray[np.bool_]]) -> None:
        self._failure, self._unguided = kept[0], kept[1].copy()

    def forget_failure(self, rows: Rows) -> None:
        """Drop what `raise_failure` would say about `rows`, which are starting anew."""
        if self._failure is not None:
            self._unguided[rows] = False
            self._failure = self._failure if self._unguided.any() else None

    def roll_in(self, rows: Rows) -> None:
        """Let the start plug-in, if there is one, write the first tokens of `rows`."""
        if self.starts is not None and len(rows):
            self.feed_prefix(rows, self.starts.prefixes(self, rows))

    def feed_prefix(self, rows: Rows, prefixes: Sequence[Sequence[int]]) -> None:
        """Write tokens that were not the agent's actions, replies to their turns included.

        Raises:
            ValueError: a prefix is out of range, ends the episode or leaves no free column.
        """
        lengths = np.array([len(prefix) for prefix in prefixes], dtype=np.int64)
        self._check_prefixes(prefixes)
        self.marked = True
        for step in range(int(lengths.max(initial=0))):
            taking = np.flatnonzero(lengths > step)
            at = rows[taking]
            ids = np.array([prefixes[i][step] for i in taking.tolist()], dtype=np.int64)
            self.marks[at, self.position[at]] = Role.PREFIX
            ended = self.advance(ids, at, score_episodes=False).rows
            if len(ended):
                short = prefixes[int(taking[np.flatnonzero(at == ended[0])[0]])]
                raise ValueError(
                    f"prefix {list(short)} ends the episode at its token {step} (row {ended[0]}); "
                    "a prefix must leave something to do"
                )
        self.prefix_stop[rows] = self.position[rows]

    def _check_prefixes(self, prefixes: Sequence[Sequence[int]]) -> None:
        room, actions = self.task.max_tokens - 1, self.tokenizer.num_actions
        for prefix in prefixes:
            if len(prefix) > room:
                raise ValueError(
                    f"prefix has {len(prefix)} tokens; with max_tokens={self.task.max_tokens} at "
                    f"most {room} fit, so that the agent has one to choose"
                )
            for token in prefix:
                if not 0 <= token < actions or self.tokenizer.forbidden[token]:
                    raise ValueError(
                        f"prefix token {token} is not an action; accepted: 0..{actions - 1}"
                    )

    # -- stepping ------------------------------------------------------------------------------

    def write_one(self, action: int) -> bool:
        """Write one plain token into row 0 and return True; False if `advance` must do it.

        The single environment's quick way: no array operation for a token that ends nothing.
        """
        if self._may_end[action] or self.max_episode_steps is not None or self.shaping:
            return False
        position = int(self.position[0])
        if position + 1 >= self.num_columns:
            return False
        limit = self.task.max_turn_tokens
        if limit is not None and position + 1 - int(self.turn_start[0]) >= limit:
            return False
        self.tokens[0, position] = action
        self.position[0] = position + 1
        return True

    def advance(
        self, actions: NDArray[np.int64], rows: Rows | None = None, *, score_episodes: bool = True
    ) -> Outcome:
        """Write one token into each of `rows` (all rows if None) and settle what it ended.

        Args:
            actions: `(B,)` ids, already checked to be in range.
            rows: `(B,)` the rows they belong to.
            score_episodes: False while a prefix is fed, whose end would be an error anyway.

        Raises:
            RewardModelError: the reward model failed; the rows are as they were before.
        """
        shaped = self._shape(actions, self.all_rows if rows is None else rows, score_episodes)
        before: dict[str, Any] = {"position": self.position.copy(), "running": self.running.copy()}
        try:
            return self._advance(actions, rows, shaped, score_episodes, before)
        except BaseException:  # of the task or the reward model, or Ctrl-C: it can be repeated
            self._undo(before)
            raise

    def _advance(
        self,
        actions: NDArray[np.int64],
        rows: Rows | None,
        shaped: NDArray[np.float64] | None,
        score_episodes: bool,
        before: dict[str, Any],
    ) -> Outcome:
        # A slice costs nothing where an index array would copy.
        at: Any = slice(None) if rows is None else rows
        rows = self.all_rows if rows is None else rows
        columns = self.position[rows] if self.record is not None else None
        self._flat[self._offset[at] + self.position[at]] = actions
        self.position[at] += 1
        position = self.position[at]
        turn_over = self._ends_turn[actions]
        if self._stops is not None:
            turn_over |= self._stops.complete(self.tokens, self.turn_start, self.position, rows)
        if self.task.max_turn_tokens is not None:
            turn_over |= position - self.turn_start[at] >= self.task.max_turn_tokens
        stopping = turn_over | (position == self.num_columns)

        outcome = Outcome(
            rewards=np.zeros(self.num_envs),
            terms={name: np.zeros(self.num_envs) for name in self.term_names},
            terminated=np.zeros(self.num_envs, dtype=bool),
            truncated=np.zeros(self.num_envs, dtype=bool),
            rows=rows[:0],
            episodes=None,
        )
        if stopping.any():
            before |= self._remember()
            self._settle(rows, actions, turn_over, stopping, outcome, score_episodes, before)
        if shaped is not None:
            outcome.rewards += shaped
            outcome.terms[SHAPING] = shaped
        if self.max_episode_steps is not None:
            self._truncate(rows, outcome)
        if self.record is not None and score_episodes:
            self.record.rewards[rows, columns] = outcome.rewards[rows]
            if outcome.episodes is not None:
                self.record.end(outcome.rows, outcome.episodes.finish_reasons)
        return outcome

    def _shape(
        self, actions: NDArray[np.int64], rows: Rows, score_episodes: bool
    ) -> NDArray[np.float64] | None:
        """Return what the shaping plug-in pays for writing `actions` into `rows`, `(N,)`."""
        if self.shaping is None or not score_episodes:
            return None
        written = actions
        if self._any_forbidden:
            written = np.where(self.tokenizer.forbidden[actions], self.tokenizer.eos_id, actions)
        paid = self.shaping.shape(self.tokens[rows], written, rows)
        shaped = np.zeros(self.num_envs)
        shaped[rows] = self._gate(f"shaping {type(self.shaping).__name__}", paid, rows)
        return shaped
