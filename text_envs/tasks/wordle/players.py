"""Scripted Wordle players, from greedy information gain to stubborn, and the adversarial set."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.core.facts import describe
from text_envs.core.playing import play_out
from text_envs.core.task import Task
from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.types import Turns
from text_envs.tasks.wordle.words import (
    LENGTH,
    SOLVED,
    WordleTokenizer,
    as_letters,
    feedback,
    pattern_codes,
    pattern_table,
)

__all__ = ["AdversarialSet", "History", "Player", "adversarial_set"]

# The guesses so far with the code of their marks; refused ones are left out.
History = tuple[tuple[tuple[int, ...], int], ...]

_MOST_REMEMBERED = 50_000  # histories, then the memory is emptied


class Player:
    """Knows the word list and the marks so far, never the hidden word.

    The policies, by name:
        expert: the consistent word whose marks are expected to tell most (greedy information
            gain); a word is consistent if it would have produced all marks so far.
        suboptimal: the expert's word or any word of the list, by a fair coin at each guess.
        wrong: any word that is known not to be the hidden one.
        repeat: the expert's first two words, then these two again and again.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.letters = as_letters(words)
        self._positions = {tuple(row): i for i, row in enumerate(self.letters.tolist())}
        self._consistent: dict[History, NDArray[np.int64]] = {}
        self._best: dict[History, int] = {}

    def histories(self, tokens: NDArray[np.int64], tokenizer: WordleTokenizer) -> list[History]:
        """Read the guesses and their marks out of the generated columns `(B, T)`."""
        return [_read(row, tokenizer) for row in tokens.tolist()]

    def consistent(self, history: History) -> NDArray[np.int64]:
        """Return the positions of the words that fit the marks of `history`, in order."""
        if not history:
            return np.arange(len(self.words))
        known = self._consistent.get(history)
        if known is None:
            guess, code = history[-1]
            before = self.consistent(history[:-1])
            known = before[self._patterns(guess, before) == code]
            if len(self._consistent) >= _MOST_REMEMBERED:
                self._consistent.clear()
            self._consistent[history] = known
        return known

    def _patterns(self, guess: tuple[int, ...], among: NDArray[np.int64]) -> NDArray[np.uint8]:
        position = self._positions.get(guess)
        if position is None:
            return pattern_codes(feedback(np.array(guess), self.letters[among]))
        patterns: NDArray[np.uint8] = pattern_table(self.words)[position, among]
        return patterns

    def best(self, history: History) -> int:
        """Return the position of the consistent word with the largest information gain."""
        if not history:
            return _opening(self.words)
        best = self._best.get(history)
        if best is None:
            words = self.consistent(history)
            best = int(words[_most_informative(pattern_table(self.words), words)])
            if len(self._best) >= _MOST_REMEMBERED:
                self._best.clear()
            self._best[history] = best
        return best

    def guess(self, history: History, policy: str, rng: np.random.Generator) -> int:
        """Return the position of the word that `policy` guesses next."""
        if policy == "repeat" and len(history) >= 2:
            return self._positions[history[len(history) % 2][0]]
        if policy == "suboptimal" and rng.random() < 0.5:
            return int(rng.integers(len(self.words)))
        if policy == "wrong":
            return self._wrong(history, rng)
        return self.best(history)

    def _wrong(self, history: History, rng: np.random.Generator) -> int:
        excluded = np.ones(len(self.words), dtype=bool)
        excluded[self.consistent(history)] = False
        choices = np.flatnonzero(excluded) if excluded.any() else np.arange(len(self.words))
        return int(rng.choice(choices))


@functools.lru_cache(maxsize=4)
def _opening(words: tuple[str, ...]) -> int:
    return _most_informative(pattern_table(words), np.arange(len(words)))


def _most_informative(table: NDArray[np.uint8], words: NDArray[np.int64]) -> int:
    """Return which of `words` splits `words` best, ties to the first.

    The gain of a guess is log n - (1/n) sum_k c_k log c_k, where c_k of the n words would be
    marked by pattern k; the sum is what is compared.
    """
    if len(words) <= 2:
        return 0
    sums = []
    for start in range(0, len(words), 256):
        block = words[start : start + 256]
        cells = table[block[:, None], words] + np.arange(len(block))[:, None] * (SOLVED + 1)
        counts = np.bincount(cells.ravel(), minlength=len(block) * (SOLVED + 1))
        weighed = counts * np.log(np.maximum(counts, 1))
        sums.append(weighed.reshape(len(block), -1).sum(axis=1))
    # Rounded, so that equal splits are ties whatever the order of summation.
    return int(np.concatenate(sums).round(9).argmin())


def _read(tokens: Sequence[int], tokenizer: WordleTokenizer) -> History:
    history: list[tuple[tuple[int, ...], int]] = []
    letters: list[int] = []
    marks: list[int] = []
    for token in tokens:
        if token < tokenizer.eos_id:
            letters.append(token)
        elif token == tokenizer.refused:
            letters.clear()
        elif token >= tokenizer.grey:
            marks.append(token - tokenizer.grey)
            if len(marks) == LENGTH:
                code = sum(mark * 3**i for i, mark in enumerate(marks))
                history.append((tuple(letters), code))
                letters, marks = [], []
    return tuple(history)


@dataclass(frozen=True)
class AdversarialSet:
    """Games in which a good opening looks bad, B = 11 games for each of n hidden words.

    Attributes:
        demonstrations: the B games, with the two facts below as columns "policy" and "game".
        kinds: `(B,)` "expert", "adversarial" or "suboptimal".
        games: `(B,)` which of the n hidden words a game is about.
        n: number of hidden words.
    """

    demonstrations: EpisodeDataset
    kinds: NDArray[np.str_]
    games: NDArray[np.int64]
    n: int

    def __len__(self) -> int:
        return len(self.kinds)

    def mean_returns(self) -> dict[str, float]:
        """Return the mean return of each kind."""
        returns = self.demonstrations.returns
        return {
            kind: float(returns[self.kinds == kind].mean())
            for kind in ("expert", "adversarial", "suboptimal")
        }


def adversarial_set(task: Task, n: int, seed: int = 0) -> AdversarialSet:
    """Return the multi-step test: which first word is better, when the better one mostly lost?

    For each of `n` hidden words whose expert game takes at least three guesses: the expert's game,
    5 games that open with the same two words and then repeat them until all tries are lost, and 5
    games of the suboptimal policy. Averaged over the games that contain it, the expert's opening
    looks worse than the others; only a method that joins the end of one game to the start of
    another values it rightly.

    Args:
        task: the words; its target must be fixed, so that the 11 games share a hidden word.
        n: number of hidden words, drawn without repetition where there are enough.
        seed: of the words and of the suboptimal games.

    Raises:
        ValueError: `n` is below 1, the target is not fixed, or no game takes three guesses.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n!r}")
    if "fits" in task.memory(1):
        raise ValueError("adversarial_set needs target='fixed', got target='resample'")
    # The expert draws nothing, so that one game a word shows all its games.
    everything = np.arange(len(task))
    long = everything[_play(task, everything, ["expert"] * len(task), seed).returns <= -2]
    if not len(long):
        raise ValueError(f"no expert game of {task!r} takes three guesses")
    rng = np.random.default_rng([seed, 2])
    words = rng.choice(long, size=n, replace=n > len(long))
    kinds = np.repeat(["expert", "adversarial", "suboptimal"], [n, 5 * n, 5 * n])
    policies = np.where(kinds == "adversarial", "repeat", kinds).tolist()
    games = np.tile(np.arange(n), 11)
    played = replace(
        _play(task, words[games], policies, seed),
        columns={"policy": kinds, "game": games},
        metadata=describe(task, seed=seed, policy="adversarial"),
    )
    return AdversarialSet(played, kinds, games, n)


def _play(
    task: Task, indices: NDArray[np.int64], policies: Sequence[str], seed: int
) -> EpisodeDataset:
    """Play one game about each of the examples `indices`, all side by side."""
    engine = TokenEngine(task, None, len(indices))
    rngs = [np.random.default_rng([seed, row, 1]) for row in range(len(indices))]
    engine.begin(engine.all_rows, indices)

    def write(turns: Turns) -> Sequence[Sequence[int]]:
        return task.script(turns, [policies[row] for row in turns.rows.tolist()])

    played = play_out(engine, engine.all_rows, write, rngs)
    return EpisodeDataset(
        tokens=engine.tokens.copy(),
        roles=engine.roles(engine.all_rows),
        rewards=played.rewards,
        example_indices=engine.example_index.copy(),
        finish_reasons=tuple(played.finish_reasons),
    )
