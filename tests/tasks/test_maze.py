"""Maze-v0: drawings, distances, moves, descriptions, and the stitching test."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_envs import DatasetError, TokenEnv
from text_envs.tasks.maze import Maze
from text_envs.tasks.maze.grid import LAYOUTS, distances, read_layout
from text_envs.testing.envs import check_task

RING = ["G..", ".#.", "..."]


def played(env: TokenEnv, text: str) -> tuple[list[float], bool, dict[str, Any]]:
    """Give commands, `/` ending a turn; return the rewards of the turns."""
    rewards = []
    for turn in text.split("/"):
        for token in [*env.tokenizer.encode(turn), env.tokenizer.eos_id]:
            _, reward, terminated, _, info = env.step(token)
            if terminated or token == env.tokenizer.eos_id:
                rewards.append(float(reward))
            if terminated:
                return rewards, True, info
    return rewards, False, info


def start_at(task: Maze, cell: tuple[int, int]) -> int:
    """Return the example that starts at `cell`."""
    starts = [task.example(i).metadata["start"] for i in range(len(task))]
    return starts.index(cell)


def test_distances_of_a_ring_by_hand() -> None:
    grid = read_layout("", RING)
    # . marks an open cell, counted in reading order; the centre is a wall.
    assert distances(grid, np.array([grid.goal])).tolist() == [[0, 1, 2, 1, 3, 2, 3, 4]]
    assert grid.walls[0].tolist() == [True, False, True, False]  # up and left are outside


def test_distances_agree_with_a_plain_breadth_first_search() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        open_cells = rng.random((7, 9)) < 0.75
        start = tuple(np.argwhere(open_cells)[0].tolist())
        found, queue = {start: 0}, deque([start])
        while queue:
            row, column = queue.popleft()
            for cell in (
                (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)
            ):  # fmt: skip
                inside = 0 <= cell[0] < 7 and 0 <= cell[1] < 9
                if inside and open_cells[cell] and cell not in found:
                    found[cell] = found[(row, column)] + 1
                    queue.append(cell)
        letters = np.full((7, 9), "#")
        for cell in found:
            letters[cell] = "."
        letters[start] = "G"
        grid = read_layout("", ["".join(row) for row in letters])
        there = distances(grid, np.array([grid.goal]))[0].tolist()
        assert {tuple(c): d for c, d in zip(grid.cells.tolist(), there, strict=True)} == found


def test_a_game_by_hand() -> None:
    task = Maze(layout="double_t")
    env = TokenEnv(task)
    env.reset(options={"index": start_at(task, (1, 1))})
    prompt = task.tokenizer.decode(env.engine.tokens[0, : task.prompt_length].tolist())
    assert prompt == "goal 1 11 at 1 1 walls up down left"
    way = "right/right/down/down/right/right/right/right/right/right/up/up/right/right"
    rewards, terminated, info = played(env, way)
    assert rewards == [-1.0] * 13 + [0.0] and terminated and info["finish_reason"] == "goal"
    assert info["text"].startswith("right at 1 2 walls up down right at 1 3 walls up down at 2 3")


@pytest.mark.parametrize(
    "turn", ["up", "at", "right right", "", "3", "right up", "goal right", "open open"]
)
def test_walls_and_illegal_commands_cost_and_move_nothing(turn: str) -> None:
    task = Maze()
    env = TokenEnv(task)
    env.reset(options={"index": start_at(task, (1, 1))})
    cell = env.engine.memory["cell"].copy()
    tokens = task.tokenizer.encode(turn)
    # A turn of two words is over at its second one, without an end token.
    for token in tokens if len(tokens) == 2 else [*tokens, task.tokenizer.eos_id]:
        _, reward, terminated, _, _ = env.step(token)
    assert reward == -1.0 and not terminated
    assert np.array_equal(env.engine.memory["cell"], cell) and env.engine.memory["moves"] == 1
    assert env.engine.position[0] == task.prompt_length + max(len(tokens), 1) + (
        len(tokens) == 1
    ) + len("at 1 1 walls up down left".split())


def test_the_limit_on_moves_ends_the_game() -> None:
    task = Maze(max_moves=3)
    env = TokenEnv(task)
    env.reset(options={"index": start_at(task, (1, 1))})
    rewards, terminated, info = played(env, "left/left/left")
    assert rewards == [-1.0] * 3 and terminated and info["finish_reason"] == "moves"


def test_the_longest_game_fills_the_columns_exactly_at_most() -> None:
    for observability in ("full", "partial"):
        task = Maze(observability=observability, max_moves=5)
        reasons = task.demonstrations(64, quality="random").finish_reasons
        assert set(reasons) <= {"moves", "goal"}
    assert set(Maze(max_tokens=10).demonstrations(8, quality="walk").finish_reasons) <= {
        "length",
        "goal",
    }


def test_partial_observation_tells_no_position() -> None:
    task = Maze(observability="partial")
    env = TokenEnv(task)
    env.reset(options={"index": start_at(task, (1, 1))})
    _, _, info = played(env, "right/right/down")
    text = task.tokenizer.decode(env.engine.tokens[0].tolist())
    assert text == "walls up down left right walls up down right walls up down walls left right"
    assert not any(character.isdigit() for character in text)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("goal", ["fixed", "random"])
def test_the_expert_takes_a_shortest_way(layout: str, goal: str) -> None:
    task = Maze(layout=layout, goal=goal)
    expert = task.demonstrations(100)
    assert expert.returns.tolist() == task.optimal_returns[expert.example_indices].tolist()
    assert set(expert.finish_reasons) == {"goal"}


def test_qualities_are_ordered() -> None:
    means = [Maze().demonstrations(256, quality=q).returns.mean() for q in Maze.qualities]
    assert Maze.qualities == ("random", "walk", "mixed", "expert")
    assert means == sorted(means)


@pytest.mark.parametrize("observability", ["full", "partial"])
def test_the_contract_of_tasks_and_disjoint_splits(observability: str) -> None:
    check_task(Maze, card=True, observability=observability)
    check_task(Maze, layout="rooms", goal="random", observability=observability)


def test_short_walks_can_be_stitched_to_shortest_ways() -> None:
    """Values computed from short random walks are optimal, although no far start ever arrives."""
    task = Maze(max_moves=8)
    data = task.demonstrations(600, quality="walk", seed=1)
    far = task.optimal_returns[data.example_indices] < -8
    assert far.any() and set(np.array(data.finish_reasons)[far]) == {"moves"}
    values: dict[tuple[int, int], float] = {}
    steps = set()
    for row in range(len(data)):
        words = task.tokenizer.decode(data.tokens[row].tolist()).split()
        cells = [
            (int(words[i + 1]), int(words[i + 2])) for i, word in enumerate(words) if word == "at"
        ]
        steps |= set(zip(cells, cells[1:], strict=False))
        if data.finish_reasons[row] == "goal":  # the winning move has no reply
            steps.add((cells[-1], (1, 11)))
    values = {cell: -99.0 for step in steps for cell in step} | {(1, 11): 0.0}
    for _ in range(40):
        for cell, after in steps:
            if cell != (1, 11):
                reward = 0.0 if after == (1, 11) else -1.0
                values[cell] = max(values[cell], reward + values[after])
    full = Maze()
    starts = [full.example(i).metadata["start"] for i in range(len(full))]
    assert [values[start] for start in starts] == full.optimal_returns.tolist()


def test_a_file_with_a_maze(tmp_path: Path) -> None:
    file = tmp_path / "ring.txt"
    file.write_text("\n".join(RING) + "\n\n", encoding="utf-8")
    env = gym.make("text_envs/Maze-v0", dataset=str(file), split="test")
    assert env.unwrapped.task.grid.cells.shape == (8, 2)
    assert gym.make(env.spec).unwrapped.task.grid.goal == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "maze is empty"),
        (["G..", ".."], "line 2: 2 columns, but line 1 has 3"),
        (["G..", ".x.", "..."], "line 2, column 2: 'x'; accepted"),
        (["...", "..."], "exactly one goal 'G' is needed, got none"),
        (["G..", "..G"], "got line 1, column 1; line 2, column 3"),
        (["G..#.", "...#."], "line 1, column 5: no way leads"),
        (["G" * 70], "at most 64"),
    ],
)
def test_malformed_drawings(lines: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "maze.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        Maze(dataset=str(file))


def test_other_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"G..\n.\xe9.\n...\n")
    with pytest.raises(DatasetError, match=r"latin.txt, line 2: not UTF-8"):
        Maze(dataset=str(file))
    with pytest.raises(DatasetError, match="cannot read the file"):
        Maze(dataset=str(tmp_path / "nothing.txt"))
    with pytest.raises(DatasetError, match="got int"):
        Maze(dataset=3)
    with pytest.raises(ValueError, match="unknown layout 'opn'.*Did you mean 'open'"):
        Maze(layout="opn")
    with pytest.raises(ValueError, match="unknown observability 'ful'.*Did you mean 'full'"):
        Maze(observability="ful")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        Maze(split="dev")
    with pytest.raises(ValueError, match="max_moves must be an integer of at least 1, got 0"):
        Maze(max_moves=0)
    with pytest.raises(ValueError, match="need at least 5 contexts, got 3"):
        Maze(dataset=["G..."])
