"""Questions as data: drawing them, splitting them by context, writing them out as prompts."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import Example
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tokens.builtin import WordTokenizer
from text_envs.tokens.chat import Chat
from text_envs.tokens.protocol import Tokenizer

__all__ = [
    "SPLITS",
    "STYLES",
    "Family",
    "Item",
    "as_example",
    "check_choice",
    "check_range",
    "check_subset",
    "choose",
    "draw_examples",
    "letter",
    "longest",
    "near_numbers",
    "pick",
    "split_of",
]

STYLES = ("sentences", "compact")

_BUCKETS = 10  # of which the last two are validation and test
_MOST_DRAWS = 5000  # a split gets a tenth of the contexts at least

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        key: what makes the context, whatever its wording and whatever is asked about it; plain
            values, because the split follows from its printed form.
        text: the context and the question.
        gold: what answers it: the right options, or every accepted text where options are empty.
        options: all options, the right ones included; they are put in order later.
        wrong: some wrong answers, where there are no options to choose wrongly from.
        details: what a program needs to check the question; goes into the example's metadata.
    """

    key: tuple[Any, ...]
    text: str
    gold: tuple[str, ...]
    options: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of question and how hard it is; equal families draw equal items.

    Attributes:
        style: "sentences" for running text, "compact" for the same facts in few tokens, which a
            very small model can learn from.
    """

    style: str = "sentences"

    def __post_init__(self) -> None:
        """Check the arguments; a subclass adds its own checks."""
        check_choice("style", self.style, STYLES)

    @property
    def compact(self) -> bool:
        """Whether items are written in few tokens."""
        return self.style == "compact"

    def draw(self, rng: np.random.Generator) -> Item:
        """Return a random item."""
        raise NotImplementedError

    def texts(self) -> Iterable[str]:
        """Return texts that together hold every word of prompts and answers."""
        raise NotImplementedError

    def columns(self) -> int:
        """Return the length in tokens of the longest prompt, begin token not counted."""
        raise NotImplementedError

    def answer_columns(self) -> int:
        """Return the length in tokens of the longest answer, end token not counted."""
        return 1

    def tokenizer(self) -> Tokenizer:
        """Return the closed vocabulary of the family."""
        words = (word for text in self.texts() for word in WordTokenizer.split(text))
        return WordTokenizer(list(dict.fromkeys(words)))

    def option_columns(self, count: int, words: int = 1) -> int:
        """Return the tokens of `count` options of `words` words each."""
        return count * (words + (1 if self.compact else 3))


def letter(place: int) -> str:
    """Return the name of option number `place`: a to z, then aa, ab, ... as in a spreadsheet.

    >>> letter(0), letter(25), letter(26), letter(701), letter(702)
    ('a', 'z', 'aa', 'zz', 'aaa')
    """
    name = ""
    place += 1
    while place > 0:
        place, digit = divmod(place - 1, 26)
        name = chr(ord("a") + digit) + name
    return name


def split_of(key: tuple[Any, ...]) -> str:
    """Return the one split in which a context may occur, whatever the seed.

    A context belongs to a split by its own printed form. So no two splits can share one, and none
    has to know what the others hold.
    """
    bucket = zlib.crc32(repr(key).encode("utf-8")) % _BUCKETS
    return {_BUCKETS - 2: "validation", _BUCKETS - 1: "test"}.get(bucket, "train")


def draw_examples(family: Family, split: str, seed: int, count: int) -> list[Example]:
    """Return `count` questions; number i depends on the family, the seed, the split and i alone.

    Raises:
        ValueError: the family has too few contexts to find one for the split.
    """
    examples = []
    number = SPLITS.index(split)
    for index in range(count):
        rng = np.random.default_rng([seed, number, index])
        for _ in range(_MOST_DRAWS):
            item = family.draw(rng)
            if split_of(item.key) == split:
                break
        else:
            raise ValueError(
                f"{family} has no context for split {split!r} (none in {_MOST_DRAWS} draws); "
                "choose arguments that allow more different contexts"
            )
        examples.append(as_example(item, rng, index, compact=family.compact))
    return examples


def as_example(item: Item, rng: np.random.Generator, index: int, *, compact: bool) -> Example:
    """Write an item out: the options in random order, the right one where its turn is.

    Args:
        item: the question.
        rng: shuffles the options.
        index: the first right option takes place `index` modulo the number of options, which
            makes every letter right equally often.
        compact: leave out the parentheses around the letters.
    """
    if not item.options:
        metadata = {"wrong": list(item.wrong), **item.details}
        return Example(item.text, item.gold, metadata)
    others = [option for option in item.options if option != item.gold[0]]
    options = [others[i] for i in rng.permutation(len(others)).tolist()]
    options.insert(index % len(item.options), item.gold[0])
    pattern = "{} {}" if compact else "({}) {}"
    listed = [pattern.format(letter(place), option) for place, option in enumerate(options)]
    right = [letter(place) for place, option in enumerate(options) if option in item.gold]
    wrong = [letter(place) for place, option in enumerate(options) if option not in item.gold]
    more = "".join(f" {option}" for option in listed)
    return Example(
        item.text.extended(more) if isinstance(item.text, Chat) else item.text + more,
        tuple(right),
        {"options": options, "wrong": wrong, **item.details},
    )


# -- what the families share -----------------------------------------------------------------------


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Return one of `choices`."""
    return choices[int(rng.integers(len(choices)))]


def choose(rng: np.random.Generator, choices: Sequence[T], count: int) -> list[T]:
    """Return `count` different ones of `choices` in random order."""
    return [choices[i] for i in rng.permutation(len(choices))[:count].tolist()]


def near_numbers(rng: np.random.Generator, gold: int, count: int) -> list[int]:
    """Return `count` neighbouring numbers around `gold`, none negative.

    The right one may stand anywhere among them: the middle one would be a giveaway.
    """
    start = max(0, gold - int(rng.integers(count)))
    return list(range(start, start + count))


def longest(texts: Iterable[str]) -> int:
    """Return the number of words of the longest text."""
    return max(len(WordTokenizer.split(text)) for text in texts)


def check_range(name: str, value: Any, low: int, high: int) -> None:
    """Raise a ValueError unless `value` is an integer of `low..high`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of {low}..{high}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be an integer of {low}..{high}, got {value!r}")


def check_choice(name: str, value: Any, accepted: Sequence[str]) -> None:
    """Raise a ValueError unless `value` is one of `accepted`."""
    if value not in accepted:
        raise ValueError(f"unknown {name} {value!r}.{suggest(str(value), accepted)}")


def check_subset(name: str, values: Any, accepted: Sequence[str]) -> None:
    """Raise a ValueError unless `values` is a non-empty selection of `accepted`."""
    if not isinstance(values, tuple | list) or len(values) == 0:
        raise ValueError(
            f"{name} must be a list of at least one of {', '.join(map(repr, accepted))}, "
            f"got {values!r}"
        )
    for value in values:
        check_choice(name, value, accepted)
