"""The page of results says what the studies wrote, and numbers are laid out as they are."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from results import RESULTS, STUDIES, cell, pivot, render, table  # noqa: E402


def test_the_page_is_what_the_files_say() -> None:
    page = (RESULTS / "studies.md").read_text(encoding="utf-8")
    assert page == render(), "run python examples/results.py"


def test_every_study_has_a_result_and_a_picture() -> None:
    for name in STUDIES:
        assert (RESULTS / f"{name}.json").exists()
        assert (RESULTS / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ({"x": 0.51234, "x_half_width_95": 0.0123}, "0.512 ± 0.012"),
        ({"x": 0.51234, "x_half_width_95": None}, "0.512"),
        ({"x": -0.00001, "x_half_width_95": 0.0}, "-1e-05 ± 0"),
        ({"x": math.nan}, ""),
        ({}, ""),
    ],
)
def test_cells(line: dict[str, float], shown: str) -> None:
    assert cell(line, "x") == shown


def test_tables() -> None:
    lines = [{"task": "a", "method": "m", "x": 1.0}, {"task": "b", "method": "n", "x": 2.0}]
    assert table(lines, ["task"], {"x": "X", "y": "Y"}).splitlines()[0] == "| task | X |"
    assert pivot(lines, "x", "task", "method").splitlines()[2:] == [
        "| a | 1.000 |  |",
        "| b |  | 2.000 |",
    ]
