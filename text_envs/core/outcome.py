"""What one step of an engine did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import EpisodeBatch

__all__ = ["Outcome"]


@dataclass
class Outcome:
    """What one step did to the rows that took part, all arrays over every row of the engine.

    Attributes:
        rewards: `(N,)`.
        terms: the ledger; each `(N,)`, together they sum to `rewards`.
        terminated: `(N,)` True where the episode has just ended.
        truncated: `(N,)` True where the outer limit `max_episode_steps` cut it.
        rows: the rows that ended, in the order of `episodes`.
        episodes: the ended episodes, or None.
        details: what the reward model tells beside its rewards; each `(N,)`, read at `rows`.
    """

    rewards: NDArray[np.float64]
    terms: dict[str, NDArray[np.float64]]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    rows: NDArray[np.int64]
    episodes: EpisodeBatch | None
    details: dict[str, NDArray[np.float64]] = field(default_factory=dict)
