"""A maze told in words: one command a turn, and what the agent then sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.errors import suggest
from text_envs.episodes.types import Example, Replies, Turns
from text_envs.tasks.maze.grid import MOVES, STAY, distances, read_layout
from text_envs.tasks.shared.splits import split_contexts
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["Maze"]

_OBSERVABILITY = ("full", "partial")
_GOALS = ("fixed", "random")


class Maze(Task):
    """Find the way through a maze by one-word commands.

    ## Description
    The environment says where the agent stands and which neighbouring cells are walls; the agent
    answers `up`, `down`, `left` or `right` and ends its turn, and is told what it sees then. With
    `observability="full"` a description holds the position (row, column, from 0 at the top left)
    and the prompt holds the goal's; with "partial" it holds the walls alone, so the agent must
    work out from its own moves, which stay in the observation, where it can be.

    The stitching test: wandering visits every piece of every way but seldom walks a whole one.
    Take short random walks as data, `Maze(max_moves=8).demonstrations(n, quality="walk")`, whose
    episodes with `finish_reason` "moves" are cut and not over, and play the full game. Imitation
    wanders as the data does; a method that bootstraps puts the pieces together and comes close to
    `optimal_returns`. (`max_tokens=` gives the short walks the columns of the full game.)

    ## Action Space
    `Discrete(22)`: the words of commands and descriptions, and the end of the turn. A turn is one
    command word and the end; anything else is an illegal command.

    ## Observation Space
    `Box(0, 24, (274,), int64)`: 11 prompt columns, left-padded, then commands and descriptions,
    right-padded. Prompt: `goal 1 11 at 6 6 walls down left right`; reply: `at 5 6 walls left
    right`. Partially observed: `walls down left right`, or `open` where there are none.

    ## Rewards
    -1 for every command, 0 for the one that reaches the goal, so the best return is 1 - d from a
    start d moves away. An illegal command, or one that runs into a wall, costs 1 and moves
    nothing.

    ## Starting State
    An open cell other than the goal, drawn uniformly from those of the split; the cells are dealt
    out to the splits. With `goal="random"` a pair of start and goal.

    ## Episode End
    Reaching the goal (`finish_reason="goal"`) or `max_moves` commands (`"moves"`); both
    terminate, as the limit is part of the game. `"length"` if a smaller `max_tokens` was asked
    for.

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `layout="double_t"`: or "open", "rooms", "u".
    `dataset=None`: a text file with a maze of your own (or its lines), `#` wall, `.` open, `G`
    goal. `observability="full"`: or "partial". `goal="fixed"`: or "random", any cell.
    `max_moves=30`. `prompt_length=None`, `max_tokens=None`: columns; default what the game needs.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The fully and partially observed mazes of Abdulhai et al., "LMRL Gym: benchmarks for
    multi-turn reinforcement learning with language models", 2023, arXiv 2311.18232. Layouts and
    wording are this suite's own, and the limit is 30 moves in place of 100.
    """

    multi_turn = True
    max_turn_tokens = 2
    qualities = ("random", "walk", "mixed", "expert")

    def __init__(
        self,
        *,
        split: str = "train",
        layout: str = "double_t",
        dataset: Any = None,
        observability: str = "full",
        goal: str = "fixed",
        max_moves: int = 30,
        prompt_length: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Read the maze and tabulate moves, descriptions and distances.

        Args:
            split: which starts.
            layout: a built-in maze.
            dataset: a drawing of your own, see `text_envs.tasks.maze.grid.read_layout`.
            observability: "full" or "partial".
            goal: "fixed", as drawn, or "random".
            max_moves: commands after which the game is lost, at least 1.
            prompt_length: columns for the prompt; None for the longest one.
            max_tokens: columns for the dialogue; None for the longest game.
        """
        for name, value, accepted in (
            ("observability", observability, _OBSERVABILITY),
            ("goal", goal, _GOALS),
        ):
            if value not in accepted:
                raise ValueError(f"unknown {name} {value!r}.{suggest(str(value), accepted)}")
        if not isinstance(max_moves, int) or max_moves < 1:
            raise ValueError(f"max_moves must be an integer of at least 1, got {max_moves!r}")
        grid = self.grid = read_layout(layout, dataset)
        self.full = observability == "full"
        self.max_moves = max_moves
        every = np.arange(len(grid.cells))
        goals = every if goal == "random" else np.array([grid.goal])
        self.distances = distances(grid, goals)  # (G, C)
        # One row (goal number, start) for each context; standing on the goal is no start.
        pairs = np.argwhere(self.distances > 0)
        self._pairs = pairs[split_contexts(len(pairs), split)]  # (P, 2)
        self._goals = goals
        reached = self.distances[:, grid.moves[:, :STAY]]  # (G, C, 4)
        self._best = reached.argmin(axis=2)  # (G, C)
        tokenizer = _tokenizer(max(grid.size))
        seen = [tokenizer.encode(self._describe(cell)) for cell in range(len(grid.cells))]
        self._seen = np.full((len(seen), max(map(len, seen))), tokenizer.pad_id, dtype=np.int64)
        for cell, ids in enumerate(seen):
            self._seen[cell, : len(ids)] = ids
        examples = [self._example(*pair) for pair in self._pairs.tolist()]
        longest = max(len(tokenizer.encode_prompt(example.prompt)) for example in examples)
        whole_game = max_moves * (2 + self._seen.shape[1]) - self._seen.shape[1]
        super().__init__(
            examples,
            tokenizer=tokenizer,
            prompt_length=longest if prompt_length is None else prompt_length,
            max_tokens=whole_game if max_tokens is None else max_tokens,
        )

    def _describe(self, cell: int) -> str:
        walls = [move for move, wall in zip(MOVES, self.grid.walls[cell], strict=True) if wall]
        sight = " ".join(("walls", *walls)) if walls else "open"
        row, column = self.grid.cells[cell].tolist()
        return f"at {row} {column} {sight}" if self.full else sight

    def _example(self, goal: int, start: int) -> Example:
        target, cell = (self.grid.cells[i].tolist() for i in (self._goals[goal], start))
        sight = self._describe(start)
        return Example(
            f"goal {target[0]} {target[1]} {sight}" if self.full else sight,
            metadata={
                # Partially observed, different starts can look the same: this tells them apart.
                "context": f"{cell} -> {target}",
                "start": tuple(cell),
                "goal": tuple(target),
                "distance": int(self.distances[goal, start]),
            },
        )

    @property
    def optimal_returns(self) -> NDArray[np.int64]:
        """The best return from each example's start, `(len(self),)`, where the limit allows it."""
        goal, start = self._pairs.T
        returns: NDArray[np.int64] = 1 - self.distances[goal, start]
        return returns

    def memory(self, num_envs: int) -> dict[str, NDArray[Any]]:
        """Return where each row stands and how many commands it has given."""
        return {name: np.zeros(num_envs, dtype=np.int64) for name in ("cell", "moves")}

    def begin(
        self,
        memory: Mapping[str, NDArray[Any]],
        rows: NDArray[np.int64],
        indices: NDArray[np.int64],
        rngs: Sequence[np.random.Generator],
    ) -> None:
        """Put `rows` on their starts."""
        memory["cell"][rows] = self._pairs[indices, 1]
        memory["moves"][rows] = 0

    def reply(self, turns: Turns) -> Replies:
        """Move, and describe what is seen."""
        at = np.arange(len(turns.rows))
        word = turns.tokens[at, turns.start]
        # One word and the end; the last token of a turn is the end or the turn's second word.
        legal = turns.stop - turns.start == 2
        legal &= turns.tokens[at, turns.stop - 1] == self.tokenizer.eos_id
        move = np.where(legal & (word < STAY), word, STAY)
        cell = self.grid.moves[turns.memory["cell"][turns.rows], move]
        turns.memory["cell"][turns.rows] = cell
        turns.memory["moves"][turns.rows] += 1
        at_goal = cell == self._goals[self._pairs[turns.example_indices, 0]]
        done = at_goal | (turns.memory["moves"][turns.rows] >= self.max_moves)
        reasons = np.where(at_goal, "goal", "moves").tolist()
        return Replies(self._seen[cell], np.where(at_goal, 0.0, -1.0), done, reasons)

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Take a shortest way ("expert"), or any move that no wall blocks ("walk").

        Both know the position, also where the agent does not.
        """
        cells = turns.memory["cell"][turns.rows]
        best = self._best[self._pairs[turns.example_indices, 0], cells].tolist()
        walls = self.grid.walls[cells]
        return [
            [
                best[i] if quality == "expert" else int(rng.choice(np.flatnonzero(~walls[i]))),
                self.tokenizer.eos_id,
            ]
            for i, (quality, rng) in enumerate(zip(qualities, turns.rngs, strict=True))
        ]

    def draw_qualities(self, quality: str, rngs: Sequence[np.random.Generator]) -> list[str]:
        """Behaviour data ("mixed"): a quarter of expert episodes among random walks."""
        if quality != "mixed":
            return [quality] * len(rngs)
        return ["expert" if rng.random() < 0.25 else "walk" for rng in rngs]


def _tokenizer(size: int) -> WordTokenizer:
    # The four commands come first: their ids are the columns of `Grid.moves`.
    return WordTokenizer([*MOVES, "at", "goal", "walls", "open", *map(str, range(size))])
