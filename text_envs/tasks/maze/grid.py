"""Mazes as arrays: reading a drawing, moving, and the distance from everywhere to a goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import DatasetError, suggest
from text_envs.tasks.shared.data import read_lines

__all__ = ["LAYOUTS", "MOVES", "STAY", "Grid", "distances", "read_layout"]

MOVES = ("up", "down", "left", "right")
STAY = 4  # the index of "nothing happens" in `Grid.moves`
_STEPS = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
_MOST = 64  # rows or columns of a drawing

LAYOUTS = {
    "double_t": (
        "#############",
        "#.....#....G#",
        "###.#####.###",
        "###.......###",
        "######.######",
        "######.######",
        "######.######",
        "#############",
    ),
    "open": (
        "#######",
        "#....G#",
        "#.....#",
        "#.....#",
        "#.....#",
        "#.....#",
        "#######",
    ),
    "rooms": (
        "###########",
        "#....#...G#",
        "#.........#",
        "#....#....#",
        "#....#....#",
        "##.####.###",
        "#....#....#",
        "#....#....#",
        "#.........#",
        "###########",
    ),
    "u": (
        "#######",
        "#G#...#",
        "#.#.#.#",
        "#.#.#.#",
        "#...#.#",
        "#######",
    ),
}


@dataclass(frozen=True)
class Grid:
    """The C open cells of a maze, in reading order.

    Attributes:
        cells: `(C, 2)` row and column of each cell, counted from 0 at the top left.
        goal: the cell marked as the goal.
        moves: `(C, 5)` the cell that each move of `MOVES`, or staying, leads to; a wall leads
            back to the cell itself.
        size: rows and columns of the drawing.
    """

    cells: NDArray[np.int64]
    goal: int
    moves: NDArray[np.int64]
    size: tuple[int, int]

    @property
    def walls(self) -> NDArray[np.bool_]:
        """Which of the four moves run into a wall, `(C, 4)`."""
        walls: NDArray[np.bool_] = self.moves[:, :STAY] == np.arange(len(self.cells))[:, None]
        return walls


def read_layout(layout: str, dataset: Any = None) -> Grid:
    """Return the maze of a built-in name, or of a drawing.

    Args:
        layout: a name in `LAYOUTS`; ignored where `dataset` is given.
        dataset: a text file, or its lines: `#` is a wall, `.` an open cell, `G` the goal; the
            outside counts as wall.

    Raises:
        ValueError: an unknown name.
        DatasetError: a drawing that is no maze; the message names the line and the column.
    """
    if dataset is None:
        if layout not in LAYOUTS:
            raise ValueError(f"unknown layout {layout!r}.{suggest(str(layout), LAYOUTS)}")
        return _parse(LAYOUTS[layout], f"layout {layout!r}")
    if isinstance(dataset, str | Path):
        return _parse(read_lines(Path(dataset)), str(dataset))
    if isinstance(dataset, Sequence) and all(isinstance(line, str) for line in dataset):
        return _parse(dataset, "layout")
    raise DatasetError(
        f"dataset must be a text file with a maze, or its lines; got {type(dataset).__name__}"
    )


def _parse(lines: Sequence[str], source: str) -> Grid:
    drawing = [line.rstrip() for line in lines]
    while drawing and not drawing[-1]:
        drawing.pop()
    goal = _check_drawing(drawing, source)
    letters = np.array([list(line) for line in drawing])
    cells = np.argwhere(letters != "#").astype(np.int64)
    number = np.full((len(letters) + 2, letters.shape[1] + 2), -1, dtype=np.int64)
    number[tuple((cells + 1).T)] = np.arange(len(cells))
    moves = np.stack([number[tuple((cells + 1 + step).T)] for step in _STEPS], axis=1)  # (C, 4)
    stay = np.arange(len(cells))[:, None]
    moves = np.concatenate([np.where(moves < 0, stay, moves), stay], axis=1)
    grid = Grid(cells, int(number[goal[0] + 1, goal[1] + 1]), moves, letters.shape)
    far = distances(grid, np.array([grid.goal]))[0]
    if (far < 0).any():
        row, column = cells[np.flatnonzero(far < 0)[0]].tolist()
        raise DatasetError(
            f"{source}, line {row + 1}, column {column + 1}: no way leads from this cell to the "
            "goal; wall it off with '#', or open a way"
        )
    return grid


def _check_drawing(drawing: Sequence[str], source: str) -> tuple[int, int]:
    """Return row and column of the goal of a drawing that is rectangular and has exactly one."""
    if not drawing:
        raise DatasetError(f"{source}: the maze is empty")
    if len(drawing) > _MOST or len(drawing[0]) > _MOST:
        raise DatasetError(f"{source}: a maze has at most {_MOST} lines and {_MOST} columns")
    goals = []
    for number, line in enumerate(drawing, start=1):
        if len(line) != len(drawing[0]):
            raise DatasetError(
                f"{source}, line {number}: {len(line)} columns, but line 1 has {len(drawing[0])}"
            )
        for column, letter in enumerate(line, start=1):
            if letter not in "#.G":
                raise DatasetError(
                    f"{source}, line {number}, column {column}: {letter!r}; accepted: '#' wall, "
                    "'.' open cell, 'G' goal"
                )
            if letter == "G":
                goals.append((number, column))
    if len(goals) != 1:
        where = "; ".join(f"line {line}, column {column}" for line, column in goals)
        raise DatasetError(f"{source}: exactly one goal 'G' is needed, got {where or 'none'}")
    return goals[0][0] - 1, goals[0][1] - 1


def distances(grid: Grid, goals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fewest moves from every cell to each goal, `(G, C)`; -1 where no way leads."""
    found = np.full((len(goals), len(grid.cells)), -1, dtype=np.int64)
    frontier = np.arange(len(grid.cells)) == goals[:, None]  # (G, C)
    steps = 0
    while (new := frontier & (found < 0)).any():
        found[new] = steps
        # A cell is one move further if one of its moves leads into the frontier.
        frontier = new[:, grid.moves[:, :STAY]].any(axis=2)
        steps += 1
    return found
