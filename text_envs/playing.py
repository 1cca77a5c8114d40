"""Playing episodes to their end with a writer of whole turns, through the engine's own steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.engine import TokenEngine
from text_envs.types import Role, Turns

__all__ = ["Played", "Writer", "play_out"]

Writer: TypeAlias = Callable[[Turns], Sequence[Sequence[int]]]
"""Returns the next tokens of each row, at least one: a whole turn, or a part of it."""


@dataclass(frozen=True)
class Played:
    """What `play_out` saw; the texts themselves are in the engine's rows.

    Attributes:
        rewards: `(B, L)` float64, on the column of the token that earned them.
        finish_reasons: why each row ended.
    """

    rewards: NDArray[np.float64]
    finish_reasons: list[str]


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
        write: is asked whenever a row has nothing left to write.
        rngs: B generators of the writer's own; what it draws must not move the task's draws.
        role: as what its tokens are marked.

    Raises:
        ValueError: the writer wrote nothing for a row.
    """
    place = {row: i for i, row in enumerate(rows.tolist())}
    rewards = np.zeros((len(rows), engine.num_columns))
    reasons = [""] * len(rows)
    plans: dict[int, list[int]] = {row: [] for row in place}
    if role != Role.ACTION:
        engine.marked = True
    while engine.running[rows].any():
        running = rows[engine.running[rows]]
        _plan(engine, running, plans, write, rngs, place)
        actions = np.array([plans[row].pop(0) for row in running.tolist()], dtype=np.int64)
        columns = engine.position[running].copy()
        turn = engine.turn_start[running].copy()
        if role != Role.ACTION:
            engine.marks[running, columns] = role
        outcome = engine.advance(actions, running)
        rewards[[place[row] for row in running.tolist()], columns] = outcome.rewards[running]
        # A turn that the environment ended before its plan was written out needs a new plan.
        for row in running[engine.turn_start[running] != turn].tolist():
            plans[row].clear()
        if outcome.episodes is not None:
            ended = zip(outcome.rows.tolist(), outcome.episodes.finish_reasons, strict=True)
            for row, reason in ended:
                reasons[place[row]] = reason
    return Played(rewards, reasons)


def _plan(
    engine: TokenEngine,
    running: NDArray[np.int64],
    plans: dict[int, list[int]],
    write: Writer,
    rngs: Sequence[np.random.Generator],
    place: dict[int, int],
) -> None:
    """Ask the writer for the next tokens of the rows that have none left."""
    empty = np.array([row for row in running.tolist() if not plans[row]], dtype=np.int64)
    if not len(empty):
        return
    turns = Turns(
        rows=empty,
        tokens=engine.tokens[empty],
        start=engine.position[empty],
        stop=engine.position[empty],
        example_indices=engine.example_index[empty],
        memory=engine.memory,
        rngs=[rngs[place[row]] for row in empty.tolist()],
    )
    for row, tokens in zip(empty.tolist(), write(turns), strict=True):
        if len(tokens) == 0:
            raise ValueError(f"the writer wrote nothing in row {row}; accepted: at least one token")
        plans[row] = [int(token) for token in tokens]
