"""What pictures show beside the tokens: rewards, further scores, why an episode ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.copying import OwnsArrays
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.spelling import Speller

__all__ = ["REWARD", "Record"]

REWARD = "reward"


class Record(OwnsArrays):
    """Numbers about the running episode of each row, by column.

    An engine keeps one only where there is a render mode, so that nobody else pays for it. Rewards
    are those paid since the last start: a saved state that is put back starts at nothing.

    Attributes:
        rewards: `(N, L)` float64, on the column of the action that earned them.
        scores: further scores, each `(N, L)` float64; NaN where nothing was said.
        finish_reasons: why the episode of each row ended; empty while it runs.
        shown: the score that `rgb_array` colours by.
        speller: remembers the text of each token.
    """

    def __init__(self, num_envs: int, num_columns: int, tokenizer: Tokenizer) -> None:
        self.rewards = np.zeros((num_envs, num_columns))
        self.scores: dict[str, NDArray[np.float64]] = {}
        self.finish_reasons = [""] * num_envs
        self.shown = REWARD
        self.speller = Speller(tokenizer)

    def clear(self, rows: NDArray[np.int64]) -> None:
        """Forget what was said of `rows`, whose next episode starts."""
        self.rewards[rows] = 0.0
        for score in self.scores.values():
            score[rows] = np.nan
        for row in rows.tolist():
            self.finish_reasons[row] = ""

    def end(self, rows: NDArray[np.int64], reasons: Sequence[str]) -> None:
        """Remember why `rows` ended."""
        for row, reason in zip(rows.tolist(), reasons, strict=True):
            self.finish_reasons[row] = reason

    def annotate(
        self, name: str, values: Any, position: NDArray[np.int64], running: NDArray[np.bool_]
    ) -> None:
        """Give tokens a score, see `text_envs.envs.face.Face.annotate`.

        Args:
            name: of the score.
            values: `(N,)` for the next token of each row, or `(N, L)` for all columns; with one
                row also a number, or `(L,)`.
            position: `(N,)` the column that each row writes next.
            running: `(N,)`; of finished rows no next token is expected.

        Raises:
            ValueError: the name of what the environment itself keeps, or another shape.
        """
        if name == REWARD:
            raise ValueError(f"score {name!r} is what the environment paid; choose another name")
        numbers = np.asarray(values, dtype=np.float64)
        count, columns = self.rewards.shape
        whole = numbers.shape == (count, columns) or (count == 1 and numbers.shape == (columns,))
        if not whole and numbers.shape != (count,) and (count, numbers.ndim) != (1, 0):
            raise ValueError(
                f"score {name!r} has shape {numbers.shape}; accepted: ({count},), the next token "
                f"of each row, or ({count}, {columns}), every column"
            )
        score = self.scores.setdefault(name, np.full((count, columns), np.nan))
        if whole:
            score[...] = numbers
        else:
            rows = np.flatnonzero(running)
            score[rows, position[rows]] = numbers.reshape(count)[rows]
