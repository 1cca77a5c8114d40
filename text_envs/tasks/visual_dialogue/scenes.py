"""The symbolic world of visual dialogue: scenes, their captions, questions, and exact answers.

A scene is a place with a few kinds of things, each with a colour, a size, a number and a side. Its
caption tells the place and two of the kinds; what to ask about is the rest. Scenes come in pools
that share place and caption, so that a caption never gives the hidden scene away.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import Example

__all__ = ["SPLITS", "VOCABULARY", "Scenes", "load_scenes"]

SPLITS = ("train", "validation", "test")
_SEED = 1611
_POOLS = {"train": 256, "validation": 32, "test": 32}
_SHARES = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}  # tenths

_KINDS = tuple(
    "ball bike bird boat book box car cat chair cup dog hat horse lamp table tree".split()
)
_PLURALS = {"box": "boxes"}
_COLOURS = ("black", "blue", "brown", "green", "red", "white")
_SIZES = ("large", "small")
_NUMBERS = ("one", "two", "three")
_SIDES = ("on the left", "in the middle", "on the right")
# What is several times as likely there as anything else: questions should fit the caption.
_TYPICAL = {
    "bedroom": ("book", "cat", "chair", "hat", "lamp", "box"),
    "beach": ("ball", "bird", "boat", "dog", "hat", "chair"),
    "farm": ("bird", "cat", "dog", "horse", "tree", "box"),
    "garden": ("ball", "bird", "cat", "chair", "table", "tree"),
    "kitchen": ("box", "chair", "cup", "cat", "lamp", "table"),
    "office": ("book", "box", "chair", "cup", "lamp", "table"),
    "park": ("ball", "bike", "bird", "dog", "horse", "tree"),
    "street": ("bike", "bird", "car", "dog", "hat", "tree"),
}
_PLACES = tuple(_TYPICAL)
_WEIGHT = 4.0
_WEIGHTS = np.array(
    [[_WEIGHT if kind in _TYPICAL[place] else 1.0 for kind in _KINDS] for place in _PLACES]
)
_ATTRIBUTES = (len(_COLOURS), len(_SIZES), len(_NUMBERS), len(_SIDES))


def _plural(kind: str) -> str:
    return _PLURALS.get(kind, kind + "s")


def _questions() -> list[str]:
    asked = [f"is there a {kind}" for kind in _KINDS]
    asked += [f"what colour is the {kind}" for kind in _KINDS]
    asked += [f"how big is the {kind}" for kind in _KINDS]
    asked += [f"where is the {kind}" for kind in _KINDS]
    asked += [f"how many {_plural(kind)} are there" for kind in _KINDS]
    asked += [f"is the {kind} {colour}" for colour in _COLOURS for kind in _KINDS]
    return asked


def _answers() -> list[str]:
    known = ["yes", "no", *_COLOURS, *_SIZES, *_SIDES, "none", *_NUMBERS]
    return known + [f"there is no {kind}" for kind in _KINDS]


VOCABULARY = tuple(
    sorted(
        {word for text in (*_questions(), *_answers()) for word in text.split()}
        | {*_PLACES, *map(_plural, _KINDS), "in", "and", "pardon", ",", ".", "?"}
    )
)


class Scenes:
    """Pools of scenes with every answer to every question.

    Attributes:
        contexts: one example a pool, its caption as the prompt.
        questions: the language, without question marks.
        answers: everything the answerer says.
        candidates: scenes in a pool.
        table: `(P, Q, n)` uint8, the answer to each question about each scene.
    """

    def __init__(self, split: str, candidates: int, untold: int) -> None:
        """Draw the pools of a split.

        Args:
            split: one of `SPLITS`; the caption decides which split a pool belongs to.
            candidates: scenes in a pool.
            untold: kinds of things that the caption leaves out.
        """
        self.questions, self.answers = _questions(), _answers()
        self.candidates = candidates
        captions: dict[str, tuple[int, NDArray[np.int64]]] = {}  # place, things (n, K, 5)
        for number in range(_POOLS[split]):
            rng = np.random.default_rng([_SEED, SPLITS.index(split), number])
            caption = None
            while caption is None or caption in captions or _tenth(caption) not in _SHARES[split]:
                place = int(rng.integers(len(_PLACES)))
                told = _things(rng, _WEIGHTS[place], 2, 1)[0]
                caption = _caption(place, told)
            captions[caption] = place, _pool(rng, place, told, untold, candidates)
        self.contexts = [Example(caption) for caption in captions]
        self._places = [place for place, _ in captions.values()]
        self._things = np.stack([things for _, things in captions.values()])  # (P, n, K, 5)
        self.table = _answer(self._things, self.answers)
        self.table.flags.writeable = False

    def __len__(self) -> int:
        return len(self.contexts) * self.candidates

    def context(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pool of each example, `(B,)`; its scenes are numbered one after another."""
        return indices // self.candidates

    def place(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which scene of its pool each example hides, `(B,)`."""
        return indices % self.candidates

    def example(self, index: int) -> Example:
        """Return an example with its hidden scene in the metadata."""
        pool, place = divmod(index, self.candidates)
        things = [
            {
                "kind": _KINDS[kind],
                "colour": _COLOURS[colour],
                "size": _SIZES[size],
                "number": number + 1,
                "side": _SIDES[side],
            }
            for kind, colour, size, number, side in self._things[pool, place].tolist()
        ]
        scene: dict[str, Any] = {"place": _PLACES[self._places[pool]], "things": things}
        return Example(self.contexts[pool].prompt, metadata={"scene": scene})

    def answer(self, indices: NDArray[np.int64], questions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the true answer to each question about each example, `(B,)`."""
        return self.table[self.context(indices), questions, self.place(indices)].astype(np.int64)

    def contradictions(
        self,
        indices: NDArray[np.int64],
        questions: NDArray[np.int64],
        answers: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return which candidates would have been answered otherwise, `(B, n)`."""
        true = self.table[self.context(indices), questions]  # (B, n)
        others: NDArray[np.bool_] = true != answers[:, None]
        return others

    def expert(
        self, index: int, fitting: NDArray[np.bool_], asked: int, penalties: NDArray[np.float64]
    ) -> int:
        """Return the question with the most expected information for its expected cost.

        The gain of a question is log n - (1/n) sum_a c_a log c_a, where c_a of the n fitting
        candidates would be answered a; its cost is 1 plus the expected penalty.

        Args:
            index: the example; only its pool is looked at, not the hidden scene.
            fitting: `(n,)` the candidates that no answer contradicts.
            asked: number of questions asked so far.
            penalties: `(A,)` what each answer costs beyond the question.
        """
        table = self.table[index // self.candidates][:, fitting].astype(np.int64)  # (Q, c)
        size, count = len(self.answers), table.shape[1]
        cells = table + np.arange(len(table))[:, None] * size
        counts = np.bincount(cells.ravel(), minlength=len(table) * size).reshape(-1, size)
        gains = np.log(count) - (counts * np.log(np.maximum(counts, 1))).sum(axis=1) / count
        # Rounded, so that equal questions are ties whatever the order of summation.
        return int((gains / (1 + counts @ penalties / count)).round(9).argmax())


@functools.lru_cache(maxsize=6)
def load_scenes(split: str, candidates: int, untold: int) -> Scenes:
    """Return the same pools for the same arguments, drawn once a process; nothing changes them."""
    return Scenes(split, candidates, untold)


def _tenth(caption: str) -> int:
    return zlib.crc32(caption.encode()) % 10


def _things(
    rng: np.random.Generator, weights: NDArray[np.float64], size: int, count: int
) -> NDArray[np.int64]:
    """Draw sets of things of different kinds, `(count, size, 5)`: kind and four attributes."""
    # The smallest of exponential variables with these rates: weighted, without repetition.
    kinds = (rng.exponential(size=(count, len(weights))) / weights).argsort(axis=1)[:, :size]
    attributes = rng.integers(_ATTRIBUTES, size=(count, size, len(_ATTRIBUTES)))
    return np.concatenate([kinds[..., None], attributes], axis=2)


def _pool(
    rng: np.random.Generator, place: int, told: NDArray[np.int64], untold: int, candidates: int
) -> NDArray[np.int64]:
    """Draw different scenes of one place that share the told things, `(candidates, K, 5)`."""
    weights = _WEIGHTS[place].copy()
    weights[told[:, 0]] = 1e-12  # each kind stands once
    drawn = _things(rng, weights, untold, 8 * candidates)
    order = drawn[..., 0].argsort(axis=1)[..., None]
    drawn = np.take_along_axis(drawn, order, axis=1)
    _, first = np.unique(drawn.reshape(len(drawn), -1), axis=0, return_index=True)
    rest = drawn[np.sort(first)[:candidates]]
    return np.concatenate([np.broadcast_to(told, (candidates, *told.shape)), rest], axis=1)


def _caption(place: int, told: NDArray[np.int64]) -> str:
    phrases = []
    for kind, colour, size, number, side in told.tolist():
        noun = _KINDS[kind] if number == 0 else _plural(_KINDS[kind])
        words = (_NUMBERS[number], _SIZES[size], _COLOURS[colour], noun, _SIDES[side])
        phrases.append(" ".join(words))
    return f"in the {_PLACES[place]} , {' and '.join(phrases)}"


def _answer(things: NDArray[np.int64], answers: Sequence[str]) -> NDArray[np.uint8]:
    """Return the answers to all questions, `(P, Q, n)`, in the order of `_questions`."""
    say = {answer: np.uint8(number) for number, answer in enumerate(answers)}
    kinds = things[..., 0]  # (P, n, K)
    shape = (*kinds.shape[:2], len(_KINDS))
    present = np.zeros(shape, dtype=bool)
    np.put_along_axis(present, kinds, True, axis=2)
    absent = np.array([say[f"there is no {kind}"] for kind in _KINDS])

    def attribute(column: int) -> NDArray[np.int64]:
        values = np.zeros(shape, dtype=np.int64)
        np.put_along_axis(values, kinds, things[..., column], axis=2)
        return values

    colour = attribute(1)
    blocks = [
        np.where(present, say["yes"], say["no"]),
        np.where(present, say[_COLOURS[0]] + colour, absent),
        np.where(present, say[_SIZES[0]] + attribute(2), absent),
        np.where(present, say[_SIDES[0]] + attribute(4), absent),
        np.where(present, say[_NUMBERS[0]] + attribute(3), say["none"]),
    ]
    for number in range(len(_COLOURS)):
        truth = np.where(colour == number, say["yes"], say["no"])
        blocks.append(np.where(present, truth, absent))
    table = np.concatenate(blocks, axis=2).astype(np.uint8)  # (P, n, Q)
    return np.ascontiguousarray(table.transpose(0, 2, 1))
