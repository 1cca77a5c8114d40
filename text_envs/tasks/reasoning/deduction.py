"""Putting things in order from clues: every item has one solution and no clue too many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np

from text_envs.tasks.reasoning.base import ReasoningTask
from text_envs.tasks.reasoning.deduction_wording import NUMBERS, THEMES, Theme
from text_envs.tasks.reasoning.items import (
    Family,
    Item,
    check_range,
    check_subset,
    choose,
    letter,
    longest,
    pick,
)

__all__ = ["DeductionItems", "LogicalDeduction", "solutions"]

Clue = tuple[Any, ...]  # ("before", x, y), ("next", x, y) or ("at", x, place from 1)

CLUES = ("before", "next", "at")
MOST = 7  # objects


def solutions(objects: Sequence[str], clues: Iterable[Sequence[Any]]) -> list[tuple[str, ...]]:
    """Return every order of `objects` that agrees with all clues, by trying all of them.

    The generator counts with bit masks; this is the independent proof that its items are sound.

    >>> solutions(["x", "y", "z"], [("next", "z", "x"), ("at", "y", 1)])
    [('y', 'z', 'x')]
    """
    found = []
    for order in permutations(objects):
        place = {name: number for number, name in enumerate(order, start=1)}
        if all(_holds(place, clue) for clue in clues):
            found.append(order)
    return found


def _holds(place: dict[str, int], clue: Sequence[Any]) -> bool:
    kind, x, y = clue
    if kind == "before":
        return place[x] < place[y]
    return place[x] + 1 == place[y] if kind == "next" else place[x] == y


@lru_cache(maxsize=MOST)
def _masks(count: int) -> dict[tuple[str, int, int], int]:
    """Return for each clue about `count` objects the set of orders in which it holds, as bits."""
    places = np.array(list(permutations(range(count))))  # (count!, count), the place of each object

    def bits(holds: np.ndarray[Any, Any]) -> int:
        return int.from_bytes(np.packbits(holds).tobytes(), "big")

    masks = {}
    for x in range(count):
        for y in range(count):
            masks["at", x, y] = bits(places[:, x] == y)
            if x != y:
                masks["before", x, y] = bits(places[:, x] < places[:, y])
                masks["next", x, y] = bits(places[:, x] + 1 == places[:, y])
    return masks


@dataclass(frozen=True, kw_only=True)
class DeductionItems(Family):
    """Clues about an order.

    Attributes:
        objects: how many, 2 to 7.
        pool: how many different names there are for them; None for all.
        themes: "shelf", "race", "age".
        clues: the kinds of clues, "before", "next", "at".
    """

    objects: int = 3
    pool: int | None = None
    themes: tuple[str, ...] = tuple(THEMES)
    clues: tuple[str, ...] = CLUES

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_range("objects", self.objects, 2, MOST)
        if self.pool is not None:
            check_range("pool", self.pool, self.objects, 10)
        check_subset("themes", self.themes, tuple(THEMES))
        check_subset("clues", self.clues, CLUES)

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw an order, then clues that leave no other one."""
        theme = THEMES[pick(rng, self.themes)]
        names = choose(rng, theme.objects[: self.pool], self.objects)
        order = rng.permutation(self.objects).tolist()  # order[i] = the place of object i, from 0
        chosen = self._clues(rng, order)
        while len(chosen) >= self.objects:  # rare; a bound on the length of prompts
            chosen = self._clues(rng, order)
        stated = {order[x] for kind, x, _ in chosen if kind == "at"}
        asked = pick(rng, [place for place in range(self.objects) if place not in stated])
        clues = [(kind, names[x], y + 1 if kind == "at" else names[y]) for kind, x, y in chosen]
        text = (self._short if self.compact else self._long)(rng, theme, names, clues, asked + 1)
        return Item(
            key=("deduction", self.objects, *sorted(clues, key=repr)),
            text=text,
            gold=(names[order.index(asked)],),
            options=tuple(names),
            details={"objects": names, "clues": clues, "asked": asked + 1},
        )

    def _clues(self, rng: np.random.Generator, order: list[int]) -> list[tuple[str, int, int]]:
        """Return true clues that leave one order; without any one of them there are more."""
        masks = _masks(self.objects)
        true = [("at", x, order[x]) for x in range(self.objects)]
        true += [
            (kind, x, y)
            for x in range(self.objects)
            for y in range(self.objects)
            for kind in ("before", "next")
            if (order[x] < order[y] if kind == "before" else order[x] + 1 == order[y])
        ]
        true = [true[i] for i in rng.permutation(len(true)).tolist() if true[i][0] in self.clues]
        everything = sum(masks["at", 0, place] for place in range(self.objects))
        kept, left = [], everything
        for clue in true:
            if left & masks[clue] != left:
                kept.append(clue)
                left &= masks[clue]
        for clue in list(kept):
            rest = everything
            for other in kept:
                if other != clue:
                    rest &= masks[other]
            if rest == left:
                kept.remove(clue)
        return kept

    @staticmethod
    def _long(
        rng: np.random.Generator, theme: Theme, names: list[str], clues: list[Clue], asked: int
    ) -> str:
        count = len(names)
        listed = ", ".join(theme.listed.format(x=name) for name in choose(rng, names, count))
        said = [theme.intro.format(n=NUMBERS[count - 2], all=listed)]
        for kind, x, y in clues:
            if kind == "at":
                said.append(theme.at.format(x=x, place=theme.place(y, count)))
            else:
                template = theme.next if kind == "next" else pick(rng, theme.before)
                said.append(template.format(x=x, y=y))
        return " ".join([*said, theme.ask.format(place=theme.place(asked, count))])

    @staticmethod
    def _short(
        rng: np.random.Generator, theme: Theme, names: list[str], clues: list[Clue], asked: int
    ) -> str:
        return " ".join([*(f"{x} {kind} {y}." for kind, x, y in clues), f"{asked}?"])

    def texts(self) -> Iterable[str]:
        """Return every wording once."""
        yield " ".join(letter(place) for place in range(self.objects))
        for theme in map(THEMES.__getitem__, self.themes):
            yield " ".join(theme.objects[: self.pool])
        if self.compact:
            yield " ".join([*self.clues, *map(str, range(1, self.objects + 1)), ".?"])
            return
        yield "(,):"
        for parts in self._wordings():
            yield from parts

    def _wordings(self) -> list[list[str]]:
        """Return all introductions, all clues and all questions."""
        introductions, clues, questions = [], [], []
        for theme in map(THEMES.__getitem__, self.themes):
            names = theme.objects[: self.objects]
            listed = ", ".join(theme.listed.format(x=name) for name in names)
            introductions.append(theme.intro.format(n=NUMBERS[self.objects - 2], all=listed))
            places = [theme.place(k, self.objects) for k in range(1, self.objects + 1)]
            questions += [theme.ask.format(place=place) for place in places]
            clues += [theme.at.format(x=names[0], place=place) for place in places]
            clues += [t.format(x=names[0], y=names[1]) for t in (*theme.before, theme.next)]
        return [introductions, clues, questions]

    def columns(self) -> int:
        """Return the longest introduction, the most and longest clues, the longest question."""
        options = self.option_columns(self.objects)
        most = self.objects - 1
        if self.compact:
            return 4 * most + 2 + options
        introductions, clues, questions = map(longest, self._wordings())
        return introductions + most * clues + questions + options


class LogicalDeduction(ReasoningTask):
    """Put three, five or seven objects in order from clues, and name the one in a given place.

    ## Description
    The prompt lists objects (instruments in a row, runners in a race, vehicles by age) and clues
    about their order: who stands before whom, who directly before whom, who stands where. The
    clues leave exactly one order and none of them can be spared; `solutions` proves it by trying
    all orders. The question asks for a place that no clue states. The answer is a letter.

    ## Action Space
    `Discrete(num_actions)`: the words of the family, letters included, and the end of the text.

    ## Observation Space
    `Box(0, vocab_size - 1, (L,), int64)`: the prompt, left-padded, then two columns for the
    answer. By default three objects have the shape (66,), five (106,), seven (146,).

    ## Rewards
    At the end 1 if the answer is the letter of the right option, up to case, spaces and full
    stops, else 0. `reward=` takes any other reward model.

    ## Starting State
    A question drawn uniformly from the split; `reset(options={"index": 3})` chooses one.

    ## Episode End
    The end-of-text token (`finish_reason="stop"`) or the last column (`"length"`).

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    Difficulty: `objects=3`, 2 to 7; `pool=None`, how many different names there are, up to 10;
    `themes=["shelf", "race", "age"]`; `clues=["before", "next", "at"]`, the kinds of clues;
    `style="sentences"` or "compact", few tokens for very small models.
    Data: `split="train"`, "validation" or "test", without a common context (the set of clues);
    `seed=0`, `num_examples=None` (2000, 250, 250); `dataset=None`, a `task.json` of BIG-bench.
    Shape: `tokenizer=None`, `prompt_length=None`, `max_tokens=None`, `truncate_prompts=False`.
    For chat models: `chat=False`, True makes a user's message of each question, which goes through
    the chat template of `tokenizer`; `stop=()`: texts, or one, that end an answer.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The questions are of the kind of BIG-bench's logical_deduction (Srivastava et al., "Beyond the
    imitation game", 2022, arXiv 2206.04615), which Zhang et al., "The wisdom of hindsight makes
    language models better instruction followers", 2023, arXiv 2302.05206, train on.
    """

    family = DeductionItems
    bigbench_name = "logical_deduction"
