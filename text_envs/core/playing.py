"""Playing episodes to their end with a writer of whole turns, through the engine's own steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import Outcome, TokenEngine
from text_envs.episodes.types import Role, Turns

__all__ = ["Played", "Writer", "play_out"]

Writer: TypeAlias = Callable[[Turns], Sequence[Sequence[int]]]
"""Returns the next tokens of each row, at least one: the rest of its turn, or a part of that.

What stands of the turn already is in the columns `start` to `stop` of `Turns`.
"""


@dataclass(frozen=True)
class Played:
    """What `play_out` saw; the texts themselves are in the engine's rows.

    Attributes:
        rewards: `(B, L)` float64, on the column of the token that earned them.
        finish_reasons: why each row ended; empty for one that has not.
        terms: the ledger of the rewards, `(B,)` each.
    """

    rewards: NDArray[np.float64]
    finish_reasons: list[str]
    terms: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def note(
        self,
        places: NDArray[np.int64],
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        outcome: Outcome,
    ) -> None:
        """Take over what a step paid.

        Args:
            places: `(n,)` where the rows stand in the arrays here.
            rows: `(n,)` their numbers in the engine.
            columns: `(n,)` the columns that they wrote.
            outcome: of the step.
        """
        self.rewards[places, columns] = outcome.rewards[rows]
        for name, values in outcome.terms.items():
            total = self.terms.setdefault(name, np.zeros(len(self.rewards)))
            total[places] += values[rows]
        if outcome.episodes is None:
            return
        order = np.argsort(rows)
        ended = places[order[np.searchsorted(rows, outcome.rows, sorter=order)]]
        for place, reason in zip(ended.tolist(), outcome.episodes.finish_reasons, strict=True):
            self.finish_reasons[place] = reason


def play_out(
    engine: TokenEngine,
    rows: NDArray[np.int64],
    write: Writer,
    rngs: Sequence[np.random.Generator],
    *,
    role: Role = Role.ACTION,
) -> Played:
    """Play the running episodes of `rows` to their end.

    Args:
        engine: whose rows.
        rows: `(B,)`.
        write: is asked for all running rows at once, whenever none of them has anything left to
            write: once for texts of one turn.
        rngs: B generators of the writer's own; what it draws must not move the task's draws.
        role: as what its tokens are marked.

    Raises:
        ValueError: the writer wrote nothing for a row.
        Exception: whatever the writer, the task or the reward model raises; what was played
            before is in the exception's attribute `played`.
    """
    played = Played(np.zeros((len(rows), engine.num_columns)), [""] * len(rows))
    if role != Role.ACTION:
        engine.marked = True
    try:
        while len(going := np.flatnonzero(engine.running[rows])):
            plans, lengths = _plan(engine, rows[going], write, [rngs[i] for i in going.tolist()])
            _carry_out(engine, rows, going, plans, lengths, int(role), played)
    except BaseException as error:
        error.played = played  # type: ignore[attr-defined]
        raise
    return played


def _plan(
    engine: TokenEngine,
    rows: NDArray[np.int64],
    write: Writer,
    rngs: Sequence[np.random.Generator],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what the writer writes next, `(n, P)`, and how many tokens of it count, `(n,)`."""
    written = write(engine.turns(rows, rngs))
    lengths = np.array([len(tokens) for tokens in written], dtype=np.int64)
    if len(lengths) != len(rows):
        raise ValueError(f"the writer was asked for {len(rows)} rows and wrote {len(lengths)}")
    if not lengths.all():
        row = int(rows[np.flatnonzero(lengths == 0)[0]])
        raise ValueError(f"the writer wrote nothing in row {row}; accepted: at least one token")
    plans = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for plan, tokens in zip(plans, written, strict=True):
        plan[: len(tokens)] = tokens
    return plans, lengths


def _carry_out(
    engine: TokenEngine,
    rows: NDArray[np.int64],
    going: NDArray[np.int64],
    plans: NDArray[np.int64],
    lengths: NDArray[np.int64],
    role: int,
    played: Played,
) -> None:
    """Write the plans of the rows `going` (indices into `rows`), column by column."""
    for step in range(plans.shape[1]):
        acting = np.flatnonzero((lengths > step) & engine.running[rows[going]])
        if not len(acting):
            return
        at = rows[going[acting]]
        columns, turn = engine.position[at].copy(), engine.turn_start[at].copy()
        if role != int(Role.ACTION):
            engine.marks[at, columns] = role
        outcome = engine.advance(plans[acting, step], at)
        played.note(going[acting], at, columns, outcome)
        # A turn that the environment ended before its plan was written out needs a new plan.
        lengths[acting[engine.turn_start[at] != turn]] = 0
