"""What the pictures of a row have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.core.record import REWARD
from text_envs.episodes.types import Role
from text_envs.render.cells import Cell, cells_of_row
from text_envs.tokens.spelling import Speller

__all__ = ["cells_of", "score_of", "total_reward"]


def cells_of(engine: TokenEngine, row: int) -> list[Cell]:
    """Return the tokens of a row as they are to be drawn."""
    speller = Speller(engine.tokenizer) if engine.record is None else engine.record.speller
    roles = engine.roles(np.array([row]))[0]
    dialogue = engine.task.multi_turn
    return cells_of_row(speller, engine.tokens[row], roles.tolist(), dialogue=dialogue)


def score_of(engine: TokenEngine, row: int, name: str) -> NDArray[np.float64]:
    """Return a score of a row, `(L,)`, NaN where there is no number."""
    nothing = np.full(engine.num_columns, np.nan)
    if engine.record is None:
        return nothing
    if name != REWARD:
        score: NDArray[np.float64] | None = engine.record.scores.get(name)
        return nothing if score is None else score[row]
    paid = engine.record.rewards[row]
    by_agent = engine.roles(np.array([row]))[0] == int(Role.ACTION)
    return np.where(by_agent | (paid != 0), paid, np.nan)  # a guide may have earned something


def total_reward(engine: TokenEngine, row: int) -> float:
    """Return what the running or just finished episode of a row has earned."""
    return 0.0 if engine.record is None else float(engine.record.rewards[row].sum())
