"""Arbitrary valid data sets, for properties."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from text_envs.datasets import EpisodeDataset
from text_envs.episodes.types import Role

FINITE = st.floats(allow_nan=False, allow_infinity=False)
# Without what neither UTF-8 nor numpy's strings keep; see the tests for what is refused.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def columns(draw: Any, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Draw up to three columns of one value an episode."""
    kinds = st.sampled_from(
        [
            (st.integers(-(2**63), 2**63 - 1), np.int64),
            (st.integers(0, 255), np.uint8),
            (st.floats(), np.float64),
            (st.floats(width=32), np.float32),
            (st.booleans(), np.bool_),
            (TEXT, np.str_),
        ]
    )
    drawn = {}
    for name in draw(st.lists(TEXT, max_size=3, unique=True)):
        values, dtype = draw(kinds)
        drawn[name] = np.array(draw(st.lists(values, min_size=count, max_size=count)), dtype=dtype)
    return drawn


@st.composite
def datasets(draw: Any) -> EpisodeDataset:
    """Draw a data set of 0 to 4 episodes."""
    count, width = draw(st.integers(0, 4)), draw(st.integers(2, 9))
    largest = draw(st.sampled_from([3, 255, 256, 70_000, 2**40]))
    pad = draw(st.integers(0, largest))
    tokens = np.full((count, width), pad, dtype=np.int64)
    roles = np.zeros((count, width), dtype=np.int8)
    rewards = np.zeros((count, width))
    for i in range(count):
        start = draw(st.integers(0, width - 2))
        stop = draw(st.integers(start + 2, width))
        roles[i, start] = Role.PROMPT
        roles[i, start + 1] = Role.ACTION
        later = st.sampled_from([Role.PREFIX, Role.ACTION, Role.REPLY])
        roles[i, start + 2 : stop] = [draw(later) for _ in range(start + 2, stop)]
        ids = st.integers(0, largest)
        tokens[i, start:stop] = [draw(ids) for _ in range(start, stop)]
        for column in np.flatnonzero(roles[i] == Role.ACTION):
            rewards[i, column] = draw(FINITE)
    return EpisodeDataset(
        tokens=tokens,
        roles=roles,
        rewards=rewards,
        example_indices=np.array([draw(st.integers(0, 2**40)) for _ in range(count)], dtype=int),
        finish_reasons=tuple(draw(st.text(max_size=4)) for _ in range(count)),
        truncated=np.array([draw(st.booleans()) for _ in range(count)], dtype=bool),
        columns=draw(columns(count)),
        metadata=draw(st.dictionaries(TEXT, JSON, max_size=3)),
    )
