"""Alignment of rewards: numbers by hand, what leaves it unchanged, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_envs.rewards.metrics import reward_alignment

REWARDS = st.lists(st.integers(-40, 40).map(float), min_size=1, max_size=30)


def test_by_hand() -> None:
    # Two bins: demonstrations 1/2, 1/2; the policy 1/4, 3/4.
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    found = reward_alignment([0, 0, 1, 1], [0, 1, 1, 1], bins=2, smoothing=0)
    assert found == pytest.approx(expected)
    # A fifth uniform: 1/2, 1/2 stays; 1/4, 3/4 becomes 0.3, 0.7.
    expected = 0.5 * math.log(0.5 / 0.3) + 0.5 * math.log(0.5 / 0.7)
    found = reward_alignment([0, 0, 1, 1], [0, 1, 1, 1], bins=2, smoothing=0.2)
    assert found == pytest.approx(expected)
    # Apart: nearly all in one bin each, 0.995 and 0.005.
    found = reward_alignment([0, 0], [1], bins=2)
    assert found == pytest.approx(0.99 * math.log(0.995 / 0.005))


def test_direction() -> None:
    # The policy misses half of what demonstrations earn: infinite. The reverse is log 2.
    assert reward_alignment([0, 1], [1, 1], bins=2, smoothing=0) == math.inf
    assert reward_alignment([1, 1], [0, 1], bins=2, smoothing=0) == pytest.approx(math.log(2))


def test_edges_are_between_bins_and_the_outer_bins_are_open() -> None:
    near = reward_alignment([-1, 0.5, 2], [-1, 0.5, 2], bins=[0, 1])
    far = reward_alignment([-1, 0.5, 2], [-1e9, 0.0, 1.0], bins=[0, 1])
    assert near == far == 0.0  # an edge belongs to the bin above it
    # One far reward must not make all bins wide, which an even split of the range would do.
    demo, rewards = [0.0] * 50 + [1.0] * 50, [1.0] * 99 + [1e6]
    assert reward_alignment(demo, rewards, bins=[0.5]) > 1
    assert reward_alignment(demo, rewards, bins=10) < 0.1


def test_all_equal() -> None:
    assert reward_alignment([2.0, 2.0], [2.0]) == 0.0


def test_of_one_distribution_it_is_what_the_docstring_says() -> None:
    rng = np.random.default_rng(0)
    edges = np.linspace(0, 1, 11)[1:-1]
    found = [
        reward_alignment(rng.random(400), rng.random(600), bins=list(edges), smoothing=0)
        for _ in range(200)
    ]
    assert np.mean(found) == pytest.approx(9 / 2 * (1 / 400 + 1 / 600), rel=0.1)


@given(REWARDS, REWARDS, st.integers(1, 12))
def test_properties(demo: list[float], rewards: list[float], bins: int) -> None:
    value = reward_alignment(demo, rewards, bins=bins)
    assert 0 <= value + 1e-12 and math.isfinite(value)
    assert reward_alignment(demo, demo[::-1], bins=bins) == 0
    # The unit of the reward does not matter; powers of 2, so that no rounding moves an edge.
    doubled = [[2 * x for x in values] for values in (demo, rewards)]
    assert reward_alignment(*doubled, bins=bins) == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": []}, "rewards must be a row of at least one finite number"),
        ({"demonstrations": [[1.0]]}, r"demonstrations must be .* shape \(1, 1\)"),
        ({"rewards": [1.0, math.nan]}, "not all finite"),
        ({"bins": 0}, "bins must be at least 1, got 0"),
        ({"bins": [1.0, 1.0]}, "edges of bins must be finite and increasing"),
        ({"smoothing": -1.0}, "smoothing must be a share, from 0 to 1, got -1.0"),
    ],
)
def test_refused(arguments: dict[str, object], message: str) -> None:
    valid: dict[str, object] = {"demonstrations": [0.0, 1.0], "rewards": [0.0]}
    with pytest.raises(ValueError, match=message):
        reward_alignment(**(valid | arguments))  # type: ignore[arg-type]
