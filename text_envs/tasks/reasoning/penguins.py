"""Reading a small table of penguins, after one has come or gone."""

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
    near_numbers,
    pick,
)

__all__ = ["PenguinItems", "PenguinsInATable"]

NAMES = ("amos", "bella", "carl", "dora", "emil", "frida", "gus", "hilda", "igor", "jette", "knut",
         "lotte", "momo", "nils", "olga", "pip")  # fmt: skip
QUESTIONS = ("value", "extreme", "compare", "count", "sum", "alphabet")

Row = tuple[str, int, int, int]  # name, age, height, weight


@dataclass(frozen=True)
class _Column:
    """A column of the table: its values and how one speaks of them."""

    name: str
    low: int
    high: int
    ask: str
    most: tuple[str, str]  # of the highest and of the lowest value
    more: tuple[str, str]  # than a value, and less
    unit: str


COLUMNS = (
    _Column("age", 1, 15, "how old is {x}?", ("oldest", "youngest"), ("older", "younger"), "years"),
    _Column("height", 40, 95, "how tall is {x}?", ("tallest", "shortest"), ("taller", "shorter"),
            "cm"),
    _Column("weight", 8, 39, "how heavy is {x}?", ("heaviest", "lightest"), ("heavier", "lighter"),
            "kg"),
)  # fmt: skip
_HEADER = "this table of penguins has name, age in years, height in cm and weight in kg."
_ADDED, _REMOVED = "now one more joins:", "now {x} leaves the table."
_ASKED = {
    "extreme": "which penguin is the {word}?",
    "compare": "how many penguins are {word} than {n} {unit}?",
    "count": "how many penguins are in the table?",
    "sum": "what is the sum of all ages?",
    "alphabet": "which name comes {word} in alphabetical order?",
}
_SHORT = {
    "value": "{column} {x}?",
    "extreme": "{word}?",
    "compare": "{word} {n}?",
    "count": "count?",
    "sum": "sum age?",
    "alphabet": "alphabet {word}?",
}


@dataclass(frozen=True, kw_only=True)
class PenguinItems(Family):
    """Tables and questions about them.

    Attributes:
        rows: penguins in the table at first, 2 to 6.
        change_rate: how often one is added or removed before the question.
        questions: kinds of questions, see `QUESTIONS`.
        num_options: of questions for a number, 2 to 6; questions for a name offer every name.
    """

    rows: int = 4
    change_rate: float = 2 / 3
    questions: tuple[str, ...] = QUESTIONS
    num_options: int = 5

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_range("rows", self.rows, 2, 6)
        check_range("num_options", self.num_options, 2, 6)
        check_subset("questions", self.questions, QUESTIONS)
        if not 0 <= self.change_rate <= 1:
            raise ValueError(f"change_rate must lie in 0..1, got {self.change_rate!r}")

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw a table, a change and a question."""
        table = self._table(rng, self.rows + 1)
        table, extra = table[:-1], table[-1]
        change, now = "", list(table)
        if rng.random() < self.change_rate:
            if rng.random() < 0.5:
                change, now = "added", [*table, extra]
            else:
                gone = int(rng.integers(len(table)))
                change, now = table[gone][0], table[:gone] + table[gone + 1 :]
        asked, gold, others = self._ask(rng, now, table)
        told = self._tell(table, extra, change)
        return Item(
            key=("penguins", table, extra if change == "added" else change),
            text=f"{told} {asked}",
            gold=(gold,),
            options=(gold, *others),
            details={"table": [list(row) for row in now]},
        )

    @staticmethod
    def _table(rng: np.random.Generator, count: int) -> list[Row]:
        """Return rows without two equal values in a column, so that extremes are unique."""
        names = choose(rng, NAMES, count)
        values = [choose(rng, range(c.low, c.high + 1), count) for c in COLUMNS]
        return list(zip(names, *values, strict=True))

    def _tell(self, table: Sequence[Row], extra: Row, change: str) -> str:
        separator, end = (" ", ";") if self.compact else (", ", ".")
        rows = [separator.join(map(str, row)) + end for row in table]
        added = separator.join(map(str, extra)) + end
        if self.compact:
            told = {"": [], "added": ["joins", added]}.get(change, ["leaves", f"{change};"])
            return " ".join([*rows, *told])
        told = {"": [], "added": [_ADDED, added]}.get(change, [_REMOVED.format(x=change)])
        return " ".join([_HEADER, *rows, *told])

    def _ask(
        self, rng: np.random.Generator, now: list[Row], before: list[Row]
    ) -> tuple[str, str, list[str]]:
        """Return a question about `now`, its answer and the wrong options."""
        kind = pick(rng, self.questions)
        which = int(rng.integers(len(COLUMNS)))
        column, up = COLUMNS[which], int(rng.integers(2))
        subject = pick(rng, now)
        values = [int(row[1 + which]) for row in now]
        word, number = "", 0
        if kind == "value":
            gold = int(subject[1 + which])
        elif kind == "compare":
            word, number = column.more[up], int(rng.integers(column.low, column.high + 1))
            gold = sum(v > number if up == 0 else v < number for v in values)
        elif kind == "count":
            gold = len(now)
        elif kind == "sum":
            gold = sum(row[1] for row in now)
        else:
            return self._ask_name(kind, which, up, now, before)
        template = column.ask if kind == "value" and not self.compact else self._template(kind)
        text = template.format(column=column.name, x=subject[0], word=word, n=number,
                               unit=column.unit)  # fmt: skip
        if kind != "value":
            near = near_numbers(rng, gold, self.num_options)
            return text, str(gold), [str(value) for value in near if value != gold]
        # Further values of the column's range, so that the right one does not look special.
        others = [*values, *choose(rng, range(column.low, column.high + 1), 2 * self.num_options)]
        others = [value for value in dict.fromkeys(others) if value != gold]
        return text, str(gold), [str(value) for value in others[: self.num_options - 1]]

    def _ask_name(
        self, kind: str, which: int, up: int, now: list[Row], before: list[Row]
    ) -> tuple[str, str, list[str]]:
        if kind == "extreme":
            word = COLUMNS[which].most[up]
            gold = (min if up else max)(now, key=lambda row: row[1 + which])[0]
        else:
            word = ("first", "last")[up]
            gold = (max if up else min)(row[0] for row in now)
        # One that has left stays among the options: whoever forgets the change may choose it.
        names = list(dict.fromkeys(row[0] for row in (*before, *now)))
        text = self._template(kind).format(word=word)
        return text, gold, [name for name in names if name != gold]

    def _template(self, kind: str) -> str:
        return (_SHORT if self.compact else _ASKED)[kind]

    def texts(self) -> Iterable[str]:
        """Return every wording once."""
        most = max(COLUMNS[0].high * (self.rows + 1) + self.num_options, COLUMNS[1].high + 1)
        yield " ".join(letter(place) for place in range(max(self.num_options, self.rows + 1)))
        yield " ".join(map(str, range(most)))
        yield " ".join(NAMES)
        yield "joins leaves ;" if self.compact else " ".join((_HEADER, _ADDED, _REMOVED, "( )"))
        yield from self._questions()

    def _questions(self) -> Iterable[str]:
        """Return every question with words of average length in its places."""
        for kind in self.questions:
            for column in COLUMNS:
                if kind == "value" and not self.compact:
                    yield column.ask.format(x=NAMES[0])
                    continue
                words = {"extreme": column.most, "alphabet": ("first", "last")}
                for word in words.get(kind, column.more):
                    yield self._template(kind).format(
                        column=column.name, x=NAMES[0], word=word, n=1, unit=column.unit
                    )

    def columns(self) -> int:
        """Return header, rows, change, longest question and options."""
        options = self.option_columns(max(self.num_options, self.rows + 1))
        asked = longest(self._questions())
        if self.compact:
            return 5 * self.rows + 6 + asked + options
        return longest([_HEADER]) + 8 * self.rows + longest([_ADDED]) + 8 + asked + options


class PenguinsInATable(ReasoningTask):
    """Answer a question about a small table of penguins.

    ## Description
    The prompt is a table with the name, age, height and weight of four penguins; in two items out
    of three one penguin then joins or leaves. The questions look a value up, name the extreme of
    a column, compare with a number, count, sum the ages, or ask who comes first or last in the
    alphabet. The answer is a letter.

    ## Action Space
    `Discrete(num_actions)`: the words of the family, letters included, and the end of the text.

    ## Observation Space
    `Box(0, vocab_size - 1, (L,), int64)`: the prompt, left-padded, then two columns for the
    answer; by default the shape is (96,).

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
    Difficulty: `rows=4`, 2 to 6; `change_rate=0.667`, how often the table changes; `questions`,
    default all: "value", "extreme", "compare", "count", "sum", "alphabet"; `num_options=5`, 2 to
    6, of questions for a number; `style="sentences"` or "compact", few tokens for very small
    models.
    Data: `split="train"`, "validation" or "test", without a common context (table and change);
    `seed=0`, `num_examples=None` (2000, 250, 250); `dataset=None`, a `task.json` of BIG-bench.
    Shape: `tokenizer=None`, `prompt_length=None`, `max_tokens=None`, `truncate_prompts=False`.
    For chat models: `chat=False`, True makes a user's message of each question, which goes through
    the chat template of `tokenizer`; `stop=()`: texts, or one, that end an answer.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The questions are of the kind of BIG-bench's penguins_in_a_table (Srivastava et al., "Beyond
    the imitation game", 2022, arXiv 2206.04615), which Zhang et al., "The wisdom of hindsight
    makes language models better instruction followers", 2023, arXiv 2302.05206, train on.
    """

    family = PenguinItems
    bigbench_name = "penguins_in_a_table"
