"""Following who holds what through a series of swaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from text_envs.tasks.reasoning.base import ReasoningTask
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

__all__ = ["TrackingItems", "TrackingShuffledObjects", "holdings"]

MOST = 7  # people
MOST_SWAPS = 20
PEOPLE = ("ana", "ben", "cleo", "dan", "edith", "finn", "gail", "hugo", "iris", "jon")
_NUMBERS = ("two", "three", "four", "five", "six", "seven")


@dataclass(frozen=True)
class _Theme:
    """The wording; `{p}`, `{q}` are people, `{o}` is an object."""

    objects: tuple[str, ...]
    intro: str
    holds: str
    swap: str
    ask: str


THEMES = {
    "balls": _Theme(
        ("red", "blue", "green", "white", "black", "pink", "orange", "purple", "yellow", "brown"),
        "{n} children play with balls.",
        "{p} has the {o} ball.",
        "then {p} and {q} swap balls.",
        "which ball does {p} have at the end?",
    ),
    "books": _Theme(
        ("atlas", "novel", "diary", "comic", "cookbook", "almanac", "poems", "manual", "reader",
         "thriller"),
        "{n} people in one library each borrow something.",
        "{p} borrows the {o}.",
        "then {p} and {q} trade what they borrowed.",
        "what does {p} hold at the end?",
    ),
    "dance": _Theme(
        ("rosa", "sam", "tess", "uli", "vera", "will", "xenia", "yuri", "zoe", "karl"),
        "{n} couples dance in one hall.",
        "{p} begins with {o}.",
        "then {p} and {q} change partners.",
        "who dances with {p} at the end?",
    ),
}  # fmt: skip


def holdings(
    people: Sequence[str], objects: Sequence[str], swaps: Iterable[Sequence[str]]
) -> dict[str, str]:
    """Return who holds what after all swaps.

    >>> holdings(["p", "q", "r"], ["x", "y", "z"], [("p", "q"), ("q", "r")])
    {'p': 'y', 'q': 'z', 'r': 'x'}
    """
    held = dict(zip(people, objects, strict=True))
    for one, other in swaps:
        held[one], held[other] = held[other], held[one]
    return held


@dataclass(frozen=True, kw_only=True)
class TrackingItems(Family):
    """Swaps between people.

    Attributes:
        people: how many, 2 to 7.
        swaps: how many, 1 to 20; None for as many as people.
        pool: how many different names there are for people, and for objects; None for all.
        themes: "balls", "books", "dance".
    """

    people: int = 3
    swaps: int | None = None
    pool: int | None = None
    themes: tuple[str, ...] = tuple(THEMES)

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_range("people", self.people, 2, MOST)
        if self.swaps is not None:
            check_range("swaps", self.swaps, 1, MOST_SWAPS)
        if self.pool is not None:
            check_range("pool", self.pool, self.people, len(PEOPLE))
        check_subset("themes", self.themes, tuple(THEMES))

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw who begins with what, the swaps, and whom to ask about."""
        theme = THEMES[pick(rng, self.themes)]
        people = choose(rng, PEOPLE[: self.pool], self.people)
        objects = choose(rng, theme.objects[: self.pool], self.people)
        swaps = self._swaps(rng, people)
        asked = pick(rng, people)
        if self.compact:
            start = ", ".join(f"{p} {o}" for p, o in zip(people, objects, strict=True))
            text = "; ".join([start, *(f"{p} {q}" for p, q in swaps), f"{asked}?"])
        else:
            said = [theme.intro.format(n=_NUMBERS[self.people - 2])]
            said += [theme.holds.format(p=p, o=o) for p, o in zip(people, objects, strict=True)]
            said += [theme.swap.format(p=p, q=q) for p, q in swaps]
            text = " ".join([*said, theme.ask.format(p=asked)])
        return Item(
            key=("tracking", people, objects, swaps),
            text=text,
            gold=(holdings(people, objects, swaps)[asked],),
            options=tuple(objects),
            details={"people": people, "objects": objects, "swaps": swaps, "asked": asked},
        )

    def _swaps(self, rng: np.random.Generator, people: list[str]) -> list[tuple[str, str]]:
        """Return pairs of people; the same two never swap twice running where there are others."""
        swaps: list[tuple[str, str]] = []
        while len(swaps) < (self.people if self.swaps is None else self.swaps):
            one, other = choose(rng, people, 2)
            if self.people > 2 and swaps and {one, other} == set(swaps[-1]):
                continue
            swaps.append((one, other))
        return swaps

    def texts(self) -> Iterable[str]:
        """Return every wording once."""
        yield " ".join(letter(place) for place in range(self.people))
        yield " ".join(PEOPLE[: self.pool])
        for theme in map(THEMES.__getitem__, self.themes):
            yield " ".join(theme.objects[: self.pool])
        if self.compact:
            yield ",;?"
            return
        for wording in self._wordings():
            yield from wording
        yield "( )"

    def _wordings(self) -> list[list[str]]:
        themes = [THEMES[name] for name in self.themes]
        p, q = PEOPLE[:2]
        return [
            [theme.intro.format(n=_NUMBERS[self.people - 2]) for theme in themes],
            [theme.holds.format(p=p, o=theme.objects[0]) for theme in themes],
            [theme.swap.format(p=p, q=q) for theme in themes],
            [theme.ask.format(p=p) for theme in themes],
        ]

    def columns(self) -> int:
        """Return the introduction, everybody's start, the swaps and the question."""
        swaps = self.people if self.swaps is None else self.swaps
        options = self.option_columns(self.people)
        if self.compact:
            return 3 * self.people + 3 * swaps + 2 + options
        intro, holds, swap, ask = map(longest, self._wordings())
        return intro + self.people * holds + swaps * swap + ask + options


class TrackingShuffledObjects(ReasoningTask):
    """Three, five or seven people swap what they hold; name what one of them holds in the end.

    ## Description
    The prompt says who begins with what (balls, books, dance partners), then tells of swaps
    between two people, as many as there are people, never the same two twice running. The
    question asks about one person. The answer is a letter.

    ## Action Space
    `Discrete(num_actions)`: the words of the family, letters included, and the end of the text.

    ## Observation Space
    `Box(0, vocab_size - 1, (L,), int64)`: the prompt, left-padded, then two columns for the
    answer. By default three people have the shape (78,), five (116,), seven (154,).

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
    Difficulty: `people=3`, 2 to 7; `swaps=None`, as many as people, or 1 to 20; `pool=None`, how
    many different names there are, up to 10; `themes=["balls", "books", "dance"]`;
    `style="sentences"` or "compact", few tokens for very small models.
    Data: `split="train"`, "validation" or "test", without a common context (start and swaps);
    `seed=0`, `num_examples=None` (2000, 250, 250); `dataset=None`, a `task.json` of BIG-bench.
    Shape: `tokenizer=None`, `prompt_length=None`, `max_tokens=None`, `truncate_prompts=False`.
    For chat models: `chat=False`, True makes a user's message of each question, which goes through
    the chat template of `tokenizer`; `stop=()`: texts, or one, that end an answer.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The questions are of the kind of BIG-bench's tracking_shuffled_objects (Srivastava et al.,
    "Beyond the imitation game", 2022, arXiv 2206.04615), which Zhang et al., "The wisdom of
    hindsight makes language models better instruction followers", 2023, arXiv 2302.05206, train
    on.
    """

    family = TrackingItems
    bigbench_name = "tracking_shuffled_objects"
