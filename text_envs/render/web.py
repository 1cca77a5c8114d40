"""`render_mode="html"`: the running episodes as a page for a browser or a notebook."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from text_envs.core.engine import TokenEngine
from text_envs.core.record import REWARD
from text_envs.render.pages import page, rows_from
from text_envs.render.rows import score_of

__all__ = ["html"]


def html(engine: TokenEngine, rows: Sequence[int]) -> str:
    """Return a self-contained page of `rows`, with a choice between all scores they have.

    Args:
        engine: whose rows.
        rows: which rows.
    """
    record = engine.record
    names = [] if record is None else [REWARD, *record.scores]
    reasons = [""] * len(rows) if record is None else [record.finish_reasons[row] for row in rows]
    batch = engine.episodes(np.asarray(rows, dtype=np.int64), reasons)
    scores = {name: np.stack([score_of(engine, row, name) for row in rows]) for name in names}
    return page(type(engine.task).__name__, {"": rows_from(batch, scores)})
