"""What the end of a turn or an episode brings: replies, rewards, the ledger; and how to undo it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.draws import Generators
from text_envs.core.ledger import BESIDE_REPLIES, REPLY, SHAPING, as_numbers
from text_envs.core.outcome import Outcome
from text_envs.core.plugins import Shaping
from text_envs.core.reward import RewardModel, component_names, score_with_details
from text_envs.core.rows import Rows, TokenRows
from text_envs.core.task import Task
from text_envs.episodes.errors import RewardModelError
from text_envs.episodes.types import Replies, Role

__all__ = ["SettledRows"]

_ACTION = int(Role.ACTION)


class SettledRows(TokenRows):
    """Rows whose turns and episodes can end.

    Attributes:
        shaping: pays for single tokens, or None.
        max_episode_steps: an outer limit of actions, or None.
        detail_names: what the reward model has told beside its rewards so far.
    """

    def __init__(
        self,
        task: Task,
        reward_model: RewardModel | None,
        num_envs: int,
        *,
        shaping: Shaping | None = None,
        max_episode_steps: int | None = None,
        rngs: Sequence[np.random.Generator] | None = None,
    ) -> None:
        """Make the rows; see `engine.TokenEngine`."""
        super().__init__(task, num_envs, rngs)
        self._reward_model = reward_model
        self._terms: tuple[str, ...] | None = None
        self.detail_names: tuple[str, ...] = ()
        self.shaping, self.max_episode_steps = shaping, max_episode_steps

    @property
    def reward_model(self) -> RewardModel | None:
        """What scores finished episodes; None where replies carry the whole reward."""
        return self._reward_model

    @reward_model.setter
    def reward_model(self, model: RewardModel | None) -> None:
        self._reward_model, self._terms, self.detail_names = model, None, ()

    @property
    def term_names(self) -> tuple[str, ...]:
        """The names of the ledger, the same at every step, see `core.ledger`.

        Of a reward model that returns several columns and does not name them, how many there are
        is known once it has scored something.
        """
        if self._terms is None:
            replies = self.task.multi_turn or self.reward_model is None
            names: tuple[str, ...] = (REPLY,) if replies else ()
            if self.reward_model is not None:
                names += self._keys(component_names(self.reward_model) or (REPLY,))
            self._terms = names
        return self._terms if self.shaping is None else (*self._terms, SHAPING)

    def _settle(
        self,
        rows: Rows,
        actions: NDArray[np.int64],
        turn_over: NDArray[np.bool_],
        stopping: NDArray[np.bool_],
        outcome: Outcome,
        score_episodes: bool,
        before: dict[str, Any],
    ) -> None:
        """End turns, then episodes."""
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
        if self.task.multi_turn and over.any():
            self._reply(at, np.flatnonzero(over), done, reasons, outcome, before)
        ended = at[done]
        if len(ended):
            outcome.rows = ended
            outcome.terminated[ended] = True
            outcome.episodes = self.episodes(ended, reasons[done].tolist())
        if self.reward_model is not None and score_episodes and len(ended):
            self._pay(ended, outcome, before)
        self.running[ended] = False

    def _remember(self) -> dict[str, Any]:
        """Return copies of what the end of a turn may change; `draws` are added when made."""
        kept: dict[str, Any] = {"draws": []}
        if self.task.multi_turn:
            kept |= {"turn_start": self.turn_start.copy(), "marks": self.marks.copy()}
        if self.memory:
            kept["memory"] = {name: array.copy() for name, array in self.memory.items()}
        return kept

    def _undo(self, before: dict[str, Any]) -> None:
        """Take back the tokens just written, the replies to them, and what was drawn for these."""
        for name in ("position", "running", "turn_start", "marks"):
            if name in before:
                getattr(self, name)[...] = before[name]
        for name, array in before.get("memory", {}).items():
            self.memory[name][...] = array
        for drawn in reversed(before.get("draws", [])):
            drawn.take_back()
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
        before: dict[str, Any],
    ) -> None:
        """Let the task answer the turns `over` (indices into `at`) that the agent has ended."""
        rows = at[over]
        turns = self.turns(rows)
        before["draws"].append(turns.rngs)
        replies = self.task.reply(turns)
        paid = self._gate(f"the reply of {type(self.task).__name__}", replies.rewards, rows)
        outcome.rewards[rows] = paid
        outcome.terms[REPLY] = outcome.rewards.copy()
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

    def _pay(self, ended: Rows, outcome: Outcome, before: dict[str, Any]) -> None:
        assert self.reward_model is not None and outcome.episodes is not None
        outcome.episodes.rngs = Generators(self.rngs, ended.tolist())
        before["draws"].append(outcome.episodes.rngs)
        ledger, details = score_with_details(self.reward_model, outcome.episodes)
        self.detail_names = tuple(dict.fromkeys((*self.detail_names, *details)))
        for name, numbers in details.items():
            outcome.details[name] = np.zeros(self.num_envs)
            outcome.details[name][ended] = numbers
        paid = dict(zip(self._keys(ledger), ledger.values(), strict=True))
        if not paid.keys() <= outcome.terms.keys():  # columns that the model does not name
            replies = (REPLY,) if self.task.multi_turn else ()
            self._terms = (*replies, *paid)
            for name in outcome.terms.keys() - {*self.term_names}:
                del outcome.terms[name]
        for name, values in paid.items():
            term = np.zeros(self.num_envs)
            term[ended] = values
            outcome.terms[name] = term
            outcome.rewards += term

    def _keys(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return names of a reward model as the ledger has them, which may hold replies already."""
        beside = {REPLY: BESIDE_REPLIES} if self.task.multi_turn else {}
        return tuple(beside.get(name, name) for name in names)

    def _truncate(self, rows: Rows, outcome: Outcome) -> None:
        roles = self.roles(rows)
        steps = np.count_nonzero(roles == _ACTION, axis=1)
        reached = rows[steps >= self.max_episode_steps]
        outcome.truncated[reached] = True  # also where the text ends with this token, as TimeLimit
        cut = reached[~outcome.terminated[reached]]
        if not len(cut):
            return
        self.running[cut] = False
        ended = np.flatnonzero(outcome.terminated | outcome.truncated)
        reasons = dict.fromkeys(cut.tolist(), "truncated")
        if outcome.episodes is not None:
            reasons |= zip(outcome.rows.tolist(), outcome.episodes.finish_reasons, strict=True)
        outcome.rows = ended
        outcome.episodes = self.episodes(ended, [reasons[row] for row in ended.tolist()])

    def _gate(self, who: str, paid: Any, rows: Rows) -> NDArray[np.float64]:
        """Return what somebody pays to `rows` as numbers `(B,)`, or raise a RewardModelError."""
        try:
            values = as_numbers(paid)
            if values.shape not in ((len(rows),), ()):
                raise ValueError(f"shape {values.shape}; accepted: ({len(rows)},)")
        except ValueError as error:
            running = self.episodes(rows, [""] * len(rows))
            raise RewardModelError(f"{who} returned {error}", running) from error
        return values
