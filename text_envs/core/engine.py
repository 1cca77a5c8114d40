"""The token-level MDP on arrays: writing tokens, ending turns and episodes, asking for rewards.

The engine knows nothing of Gymnasium. It moves rows of preallocated arrays forward; what to do
with a finished row (reset it now, at the next step, or not at all) is decided by its callers,
`envs.vector.TokenVectorEnv` and `envs.single.TokenEnv`, which are two thin faces of this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.outcome import Outcome
from text_envs.core.plugins import Shaping, Starts
from text_envs.core.record import Record
from text_envs.core.reward import RewardModel, score_with_details
from text_envs.core.rows import Rows, TokenRows
from text_envs.core.task import Task
from text_envs.episodes.types import Replies, Role

__all__ = ["Outcome", "TokenEngine"]

_ACTION = int(Role.ACTION)


class TokenEngine(TokenRows):
    """Rows of one task that can be stepped.

    Attributes:
        reward_model: scores finished episodes; None where replies carry the whole reward.
        shaping: pays for single tokens, or None.
        starts: writes the first tokens of an episode, or None.
        max_episode_steps: an outer limit of actions, or None.
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
        super().__init__(task, num_envs, rngs)
        self.reward_model = reward_model
        self.shaping, self.starts = shaping, starts
        for plugin in (shaping, starts):
            if plugin is not None:
                plugin.bind(task)
        self.record: Record | None = None
        self.max_episode_steps = max_episode_steps
        self._unguided = np.zeros(num_envs, dtype=bool)
        self._failure: Exception | None = None

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
        except Exception as error:  # of the plug-in: half a prefix is no start either
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
        if self._ends_turn[action] or self.max_episode_steps is not None or self.shaping:
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
        # A slice costs nothing where an index array would copy.
        at: Any = slice(None) if rows is None else rows
        rows = self.all_rows if rows is None else rows
        shaped = self._shape(actions, rows) if self.shaping and score_episodes else None
        columns = self.position[rows] if self.record is not None else None
        self._flat[self._offset[at] + self.position[at]] = actions
        self.position[at] += 1
        position = self.position[at]
        turn_over = self._ends_turn[actions]
        if self.task.max_turn_tokens is not None:
            turn_over |= position - self.turn_start[at] >= self.task.max_turn_tokens
        stopping = turn_over | (position == self.num_columns)

        outcome = Outcome(
            rewards=np.zeros(self.num_envs),
            terms={},
            terminated=np.zeros(self.num_envs, dtype=bool),
            truncated=np.zeros(self.num_envs, dtype=bool),
            rows=rows[:0],
            episodes=None,
        )
        if stopping.any():
            self._settle(rows, actions, turn_over, stopping, outcome, score_episodes)
        if not outcome.terms:
            outcome.terms["task"] = np.zeros(self.num_envs)
        if shaped is not None:
            outcome.rewards += shaped
            outcome.terms["shaping"] = shaped
        if self.max_episode_steps is not None:
            self._truncate(rows, outcome)
        if self.record is not None and score_episodes:
            self.record.rewards[rows, columns] = outcome.rewards[rows]
            if outcome.episodes is not None:
                self.record.end(outcome.rows, outcome.episodes.finish_reasons)
        return outcome

    def _shape(self, actions: NDArray[np.int64], rows: Rows) -> NDArray[np.float64]:
        """Return what the shaping plug-in pays for writing `actions` into `rows`, `(N,)`."""
        assert self.shaping is not None
        written = actions
        if self._any_forbidden:
            written = np.where(self.tokenizer.forbidden[actions], self.tokenizer.eos_id, actions)
        shaped = np.zeros(self.num_envs)
        shaped[rows] = self.shaping.shape(self.tokens[rows], written, rows)
        return shaped

    def _settle(
        self,
        rows: Rows,
        actions: NDArray[np.int64],
        turn_over: NDArray[np.bool_],
        stopping: NDArray[np.bool_],
        outcome: Outcome,
        score_episodes: bool,
    ) -> None:
        """End turns, then episodes; undo the step if the task or the reward model fails."""
        before = self._remember() if self.task.multi_turn else None
        at, ids, over = rows[stopping], actions[stopping], turn_over[stopping]
        if self._any_forbidden:
            written = self._offset[at] + self.position[at] - 1
            self._flat[written] = np.where(
                self.tokenizer.forbidden[ids], self.tokenizer.eos_id, ids
            )
        reasons = np.array(["stop" if by_token else "length" for by_token in over], dtype=object)
        if self._any_forbidden:
            reasons[self.tokenizer.forbidden[ids]] = "forbidden"
        done = np.ones(len(at), dtype=bool)
        try:
            if self.task.multi_turn and over.any():
                self._reply(at, np.flatnonzero(over), done, reasons, outcome)
            ended = at[done]
            if len(ended):
                outcome.rows = ended
                outcome.terminated[ended] = True
                outcome.episodes = self.episodes(ended, reasons[done].tolist())
            if self.reward_model is not None and score_episodes and len(ended):
                self._pay(ended, outcome)
        except Exception:  # of the task or the reward model: the step can be repeated
            self._undo(rows, before)
            raise
        self.running[ended] = False

    def _remember(self) -> dict[str, Any]:
        """Return copies of what replies change."""
        return {
            "position": self.position.copy(),
            "turn_start": self.turn_start.copy(),
            "marks": self.marks.copy(),
            "memory": {name: array.copy() for name, array in self.memory.items()},
        }

    def _undo(self, rows: Rows, before: dict[str, Any] | None) -> None:
        """Take back the tokens just written into `rows`, and the replies to them."""
        if before is not None:
            self.position, self.turn_start = before["position"], before["turn_start"]
            self.marks = before["marks"]
            for name, array in before["memory"].items():
                self.memory[name][...] = array
        self.position[rows] -= 1
        columns = np.arange(self.num_columns)
        unwritten = columns >= np.maximum(self.position, self.prompt_length)[:, None]  # (N, L)
        self.tokens[unwritten] = self.tokenizer.pad_id

    def _reply(
        self,
        at: Rows,
        over: NDArray[np.int64],
        done: NDArray[np.bool_],
        reasons: NDArray[Any],
        outcome: Outcome,
    ) -> None:
        """Let the task answer the turns `over` (indices into `at`) that the agent has ended."""
        rows = at[over]
        replies = self.task.reply(self.turns(rows))
        outcome.rewards[rows] = replies.rewards
        outcome.terms["task"] = outcome.rewards.copy()
        done[over] = replies.done
        reasons[over[replies.done]] = np.array(replies.finish_reasons, dtype=object)[replies.done]
        going_on = np.flatnonzero(~replies.done)
        self._write_replies(rows[going_on], replies, going_on)
        full = going_on[self.position[rows[going_on]] == self.num_columns]
        done[over[full]] = True
        reasons[over[full]] = "length"

    def _write_replies(self, rows: Rows, replies: Replies, which: NDArray[np.int64]) -> None:
        """Append the replies; one that does not fit is cut at the last column."""
        tokens = replies.tokens[which]  # (B, R)
        lengths = np.count_nonzero(tokens != self.tokenizer.pad_id, axis=1)
        columns = self.position[rows][:, None] + np.arange(tokens.shape[1])  # (B, R)
        fits = (np.arange(tokens.shape[1]) < lengths[:, None]) & (columns < self.num_columns)
        target = (np.broadcast_to(rows[:, None], columns.shape)[fits], columns[fits])
        self.tokens[target] = tokens[fits]
        self.marks[target] = Role.REPLY
        self.position[rows] += fits.sum(axis=1)
        self.turn_start[rows] = self.position[rows]

    def _pay(self, ended: Rows, outcome: Outcome) -> None:
        assert self.reward_model is not None and outcome.episodes is not None
        outcome.episodes.rngs = [self.rngs[row] for row in ended.tolist()]
        ledger, details = score_with_details(self.reward_model, outcome.episodes)
        for name, numbers in details.items():
            outcome.details[name] = np.zeros(self.num_envs)
            outcome.details[name][ended] = numbers
        for name, values in ledger.items():
            term = np.zeros(self.num_envs)
            term[ended] = values
            # A reward model on top of replies that pay for themselves keeps a name of its own.
            key = name if name not in outcome.terms else "reward_model"
            outcome.terms[key] = term
            outcome.rewards += term

    def _truncate(self, rows: Rows, outcome: Outcome) -> None:
        roles = self.roles(rows)
        steps = np.count_nonzero(roles == _ACTION, axis=1)
        cut = rows[(steps >= self.max_episode_steps) & ~outcome.terminated[rows]]
        if not len(cut):
            return
        outcome.truncated[cut] = True
        self.running[cut] = False
        ended = np.flatnonzero(outcome.terminated | outcome.truncated)
        reasons = dict.fromkeys(cut.tolist(), "truncated")
        if outcome.episodes is not None:
            reasons |= zip(outcome.rows.tolist(), outcome.episodes.finish_reasons, strict=True)
        outcome.rows = ended
        outcome.episodes = self.episodes(ended, [reasons[row] for row in ended.tolist()])
