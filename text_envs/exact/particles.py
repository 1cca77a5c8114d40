"""Episodes in progress as plain arrays, and stepping many of them through an engine.

A particle is one example at one node of the tree. It carries what the engine needs to go on from
there, so that any number of particles pass through an engine of a few thousand rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.episodes.errors import RewardModelError
from text_envs.exact.source import Source

__all__ = ["Particles", "Stepper"]

Ints = NDArray[np.int64]

# Rows of the engine: enough to make array operations worth their calls, and few enough that the
# engine's own arrays, among them a generator a row, cost nothing beside the tree.
_ROWS = 4096
# What a particle consists of beside its memory.
_ARRAYS = ("node", "example", "tokens", "position", "turn_start", "returns", "marks")


@dataclass(frozen=True)
class Particles:
    """P episodes in progress.

    Attributes:
        node: `(P,)` number of the node within its level; 0 until it has one.
        example: `(P,)`.
        tokens: `(P, L)` observations, in the smallest type that holds the vocabulary.
        position: `(P,)` next column to write.
        turn_start: `(P,)` first column of the turn.
        returns: `(P,)` rewards so far.
        marks: `(P, L)` who wrote what, see the engine; with turns only.
        memory: the task's arrays, `(P, ...)` each.
    """

    node: Ints
    example: Ints
    tokens: NDArray[Any]
    position: Ints
    turn_start: Ints
    returns: NDArray[np.float64]
    marks: NDArray[np.int8]
    memory: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.node)

    def seen(self, rows: Ints) -> Particles:
        """Return the particles `rows` without what only stepping needs."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS if name != "marks"}
        return Particles(marks=np.zeros((len(rows), 0), dtype=np.int8), memory={}, **arrays)

    @staticmethod
    def join(parts: Sequence[Particles]) -> Particles:
        """Return all particles of `parts`."""
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
        names = parts[0].memory
        memory = {name: np.concatenate([part.memory[name] for part in parts]) for name in names}
        return Particles(memory=memory, **arrays)


class _Drawn(Exception):
    """A random number was asked for."""


class _NoDraws:
    """Stands in for the rows' generators: using it in any way shows that chance is at work."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _Drawn(name)


class Stepper:
    """Steps particles with the engine that the environment itself would use."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._engine = self._make_engine(1)
        largest = source.task.tokenizer.vocab_size - 1
        self.dtype = np.min_scalar_type(largest)

    def _make_engine(self, rows: int) -> TokenEngine:
        engine = TokenEngine(self._source.task, self._source.reward_model, rows)
        # Set afterwards: a plug-in is bound once, and the environment has done so.
        engine.shaping = self._source.shaping
        engine.rngs = cast(Any, [_NoDraws()] * rows)
        return engine

    def fit(self, needed: int) -> int:
        """Make room for `needed` rows, as far as that is worth it; return the number of rows."""
        rows = min(_ROWS, needed)
        if rows > self._engine.num_envs:
            self._engine = self._make_engine(rows)
        return self._engine.num_envs

    def begin(self) -> Particles:
        """Return one particle an example, all at node 0."""
        total = len(self._source.task)
        rows, parts = self.fit(total), []
        for first in range(0, total, rows):
            indices = np.arange(first, min(first + rows, total))
            try:
                self._engine.begin(self._engine.all_rows[: len(indices)], indices)
            except _Drawn as draw:
                raise self._chance(draw) from None
            parts.append(self._read(np.arange(len(indices)), np.zeros(len(indices))))
        return Particles.join(parts)

    def step(
        self, particles: Particles, which: Ints, actions: Ints
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], Particles]:
        """Write `actions[i]` after particle `which[i]`.

        Args:
            particles: those of a level.
            which: `(B,)`, at most as many as `fit` returned.
            actions: `(B,)` ids.

        Returns:
            `(B,)` rewards; `(B,)` whether the episode has ended; those that go on, in order.

        Raises:
            ValueError: the task or its reward model draws random numbers.
        """
        engine, count = self._engine, len(which)
        self._write(particles, which)
        try:
            outcome = engine.advance(actions, engine.all_rows[:count])
        except _Drawn as draw:
            raise self._chance(draw) from None
        except RewardModelError as error:
            if isinstance(error.__cause__, _Drawn):
                raise self._chance(error.__cause__) from None
            raise
        rewards, ended = outcome.rewards[:count], outcome.terminated[:count]
        going_on = np.flatnonzero(~ended)
        returns = particles.returns[which] + rewards
        return rewards, ended, self._read(going_on, returns[going_on])

    def _write(self, particles: Particles, which: Ints) -> None:
        engine, rows = self._engine, slice(len(which))
        engine.tokens[rows] = particles.tokens[which]
        engine.position[rows] = particles.position[which]
        engine.turn_start[rows] = particles.turn_start[which]
        engine.example_index[rows] = particles.example[which]
        engine.running[rows] = True
        if engine.marked:
            engine.marks[rows] = particles.marks[which]
        for name, array in engine.memory.items():
            array[rows] = particles.memory[name][which]

    def _read(self, rows: Ints, returns: NDArray[np.float64]) -> Particles:
        engine = self._engine
        no_marks = np.zeros((len(rows), 0), dtype=np.int8)
        return Particles(
            node=np.zeros(len(rows), dtype=np.int64),  # whoever knows the level numbers them
            example=engine.example_index[rows],
            tokens=engine.tokens[rows].astype(self.dtype),
            position=engine.position[rows],
            turn_start=engine.turn_start[rows],
            returns=returns,
            marks=engine.marks[rows] if engine.marked else no_marks,
            memory={name: array[rows] for name, array in engine.memory.items()},
        )

    def _chance(self, draw: _Drawn) -> ValueError:
        return ValueError(
            f"{type(self._source.task).__name__} (or its reward model) draws random numbers within "
            f"an episode (rng.{draw}), so that its tree cannot be enumerated; choose arguments "
            "that make replies a function of the example and the text, or put what is drawn into "
            "the examples"
        )
