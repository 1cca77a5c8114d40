"""Working out a date from what a sentence says about today."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta

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

__all__ = ["DateItems", "DateUnderstanding", "month_before", "year_before"]

_FIRST_YEAR = 1970
_MONTHS = tuple(name.lower() for name in calendar.month_name[1:])
_YEARS_WORDS = ("first", "second", "third", "fourth", "fifth")


def month_before(day: date) -> date:
    """Return the same day of the month before, or that month's last day if it is shorter.

    >>> month_before(date(2001, 3, 31))
    datetime.date(2001, 2, 28)
    """
    year, month = (day.year, day.month - 1) if day.month > 1 else (day.year - 1, 12)
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def year_before(day: date, years: int = 1) -> date:
    """Return the same day `years` before; the 29th of February becomes the 28th if need be.

    >>> year_before(date(2004, 2, 29))
    datetime.date(2003, 2, 28)
    """
    year = day.year - years
    return date(year, day.month, min(day.day, calendar.monthrange(year, day.month)[1]))


def _days(count: int) -> Callable[[date], date]:
    return lambda day: day + timedelta(days=count)


# What is asked: a phrase, the same in few tokens, and how it follows from today.
QUESTIONS: dict[str, tuple[str, str, Callable[[date], date]]] = {
    "today": ("today", "plus 0 day", _days(0)),
    "tomorrow": ("tomorrow", "plus 1 day", _days(1)),
    "yesterday": ("yesterday", "minus 1 day", _days(-1)),
    "ten_days_ago": ("10 days ago", "minus 10 day", _days(-10)),
    "week_ago": ("one week ago", "minus 1 week", _days(-7)),
    "week_ahead": ("one week from today", "plus 1 week", _days(7)),
    "month_ago": ("one month ago", "minus 1 month", month_before),
    "year_ago": ("one year ago", "minus 1 year", year_before),
    "day_later": ("24 hours later", "plus 24 hour", _days(1)),
}

# What is told: a sentence, the same in few tokens, how many days after today its date lies.
TOLD: dict[str, tuple[str, str, int]] = {
    "today": ("today is {d}.", "today {d}.", 0),
    "yesterday": ("yesterday was {d}.", "minus 1 day {d}.", -1),
    "tomorrow": ("tomorrow will be {d}.", "plus 1 day {d}.", 1),
    "two_days_ago": ("the day before yesterday was {d}.", "minus 2 day {d}.", -2),
    "in_two_days": ("the meeting in 2 days is on {d}.", "plus 2 day {d}.", 2),
    "week_ago": ("exactly one week ago it was {d}.", "minus 1 week {d}.", -7),
}
_ANNIVERSARY = ("they married on {d} and celebrate their {n} wedding anniversary today.",
                "minus {n} year {d}.")  # fmt: skip
_MONTH_END = ("today is the last day of {month} {year}.", "last day {month} {year}.")
CONTEXTS = (*TOLD, "anniversary", "month_end")


@dataclass(frozen=True, kw_only=True)
class DateItems(Family):
    """Dates relative to today.

    Attributes:
        years: today lies in one of so many years from 1970 on, 1 to 80.
        contexts: how today is told, see `CONTEXTS`.
        questions: which dates are asked for, see `QUESTIONS`.
        num_options: 2 to 6.
    """

    years: int = 60
    contexts: tuple[str, ...] = CONTEXTS
    questions: tuple[str, ...] = tuple(QUESTIONS)
    num_options: int = 5

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_range("years", self.years, 1, 80)
        check_range("num_options", self.num_options, 2, 6)
        check_subset("contexts", self.contexts, CONTEXTS)
        check_subset("questions", self.questions, tuple(QUESTIONS))
        if self.questions == ("today",) and "today" in self.contexts:
            raise ValueError("questions: 'today' alone is no question where contexts state 'today'")

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw today, a sentence that gives it away, and a date to ask for."""
        kind = pick(rng, self.contexts)
        year, month = _FIRST_YEAR + int(rng.integers(self.years)), 1 + int(rng.integers(12))
        last = calendar.monthrange(year, month)[1]
        today = date(year, month, last if kind == "month_end" else 1 + int(rng.integers(last)))
        told = self._tell(rng, kind, today)
        asked = self._choose_question(rng, kind, today)
        phrase, short, follow = QUESTIONS[asked]
        gold = follow(today)
        ask = f"{short}?" if self.compact else f"what is the date {phrase} in mm/dd/yyyy?"
        return Item(
            key=("date", today.isoformat()),
            text=f"{told} {ask}",
            gold=(_numeric(gold),),
            options=(_numeric(gold), *map(_numeric, self._others(rng, today, gold))),
            details={"today": today.isoformat(), "asked": asked},
        )

    def _tell(self, rng: np.random.Generator, kind: str, today: date) -> str:
        if kind == "month_end":
            month = f"{today.month:02d}" if self.compact else _MONTHS[today.month - 1]
            return _MONTH_END[self.compact].format(month=month, year=today.year)
        if kind == "anniversary":
            years = 1 + int(rng.integers(len(_YEARS_WORDS)))
            if (today.month, today.day) == (2, 29):
                years = 4  # the only number in reach after which the day comes round
            wedding = today.replace(year=today.year - years)
            number = years if self.compact else _YEARS_WORDS[years - 1]
            return _ANNIVERSARY[self.compact].format(d=self._written(rng, wedding), n=number)
        sentence, short, days = TOLD[kind]
        written = self._written(rng, today + timedelta(days=days))
        return (short if self.compact else sentence).format(d=written)

    def _written(self, rng: np.random.Generator, day: date) -> str:
        if self.compact or rng.random() < 0.5:
            return _numeric(day)
        return f"{_MONTHS[day.month - 1]} {day.day}, {day.year}"

    def _choose_question(self, rng: np.random.Generator, kind: str, today: date) -> str:
        """Return a question; each date is asked for equally often, whatever it is called."""
        questions: dict[date, list[str]] = {}
        for name in self.questions:
            if (kind, name) != ("today", "today"):
                questions.setdefault(QUESTIONS[name][2](today), []).append(name)
        return pick(rng, pick(rng, list(questions.values())))

    def _others(self, rng: np.random.Generator, today: date, gold: date) -> list[date]:
        """Return wrong dates: answers to other questions about the same day.

        Slips of the right date (a day or a year off) would be tempting too, but whatever is made
        from the right answer betrays it: it lies closest to all the others.
        """
        found = {follow(today) for _, _, follow in QUESTIONS.values()} - {gold}
        return choose(rng, sorted(found), self.num_options - 1)

    def texts(self) -> Iterable[str]:
        """Return every wording once."""
        yield " ".join(letter(place) for place in range(self.num_options))
        yield " ".join(f"{number:02d}" for number in range(1, 32)) + " /"
        # A wedding lies up to five years back, a date asked for a few days ahead.
        yield " ".join(map(str, range(_FIRST_YEAR - 5, _FIRST_YEAR + self.years + 1)))
        if self.compact:
            yield "?. last day"
            yield " ".join(map(str, range(6)))
            yield from (short for _, short, _ in (QUESTIONS[name] for name in self.questions))
            yield from (TOLD[name][1].format(d="") for name in self.contexts if name in TOLD)
            yield "year" if "anniversary" in self.contexts else ""
            return
        yield " ".join(map(str, range(1, 32)))
        yield " ".join((*_MONTHS, *_YEARS_WORDS, "( ),"))
        for wording in self._wordings():
            yield from wording

    def _wordings(self) -> list[list[str]]:
        """Return the sentences that tell, and those that ask."""
        day = "may 1, 1970"  # no written date has more words
        told = [TOLD[name][0].format(d=day) for name in self.contexts if name in TOLD]
        told += [_ANNIVERSARY[0].format(d=day, n="fifth"), _MONTH_END[0].format(month="", year="")]
        asked = [f"what is the date {QUESTIONS[q][0]} in mm/dd/yyyy?" for q in self.questions]
        return [told, asked]

    def columns(self) -> int:
        """Return the longest sentence, the longest question and the options."""
        options = self.option_columns(self.num_options, words=5)
        if self.compact:
            return 3 + 5 + 1 + 4 + options
        told, asked = map(longest, self._wordings())
        return told + 2 + asked + options


def _numeric(day: date) -> str:
    return f"{day.month:02d}/{day.day:02d}/{day.year}"


class DateUnderstanding(ReasoningTask):
    """Work out a date from a sentence that gives today away.

    ## Description
    One sentence says what day today is, openly or not (yesterday, the last day of a month, an
    anniversary). The question asks for today or a day near it, or for the same day of the month or
    year before; a day that a shorter month does not have becomes that month's last. The answer is
    the letter of a date written month/day/year. Wrong options are the answers to other questions,
    so that the options alone give nothing away.

    ## Action Space
    `Discrete(num_actions)`: the words of the family, letters included, and the end of the text.

    ## Observation Space
    `Box(0, vocab_size - 1, (L,), int64)`: the prompt, left-padded, then two columns for the
    answer; by default the shape is (75,).

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
    Difficulty: `years=60`, 1 to 80; `contexts`, ways to tell today, default all: "today",
    "yesterday", "tomorrow", "two_days_ago", "in_two_days", "week_ago", "anniversary", "month_end";
    `questions`, default all: "today", "tomorrow", "yesterday", "ten_days_ago", "week_ago",
    "week_ahead", "month_ago", "year_ago", "day_later"; `num_options=5`, 2 to 6;
    `style="sentences"` or "compact", few tokens for very small models.
    Data: `split="train"`, "validation" or "test", without a common context (the date of today);
    `seed=0`, `num_examples=None` (2000, 250, 250); `dataset=None`, a `task.json` of BIG-bench.
    Shape: `tokenizer=None`, `prompt_length=None`, `max_tokens=None`, `truncate_prompts=False`.
    For chat models: `chat=False`, True makes a user's message of each question, which goes through
    the chat template of `tokenizer`; `stop=()`: texts, or one, that end an answer.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The questions are of the kind of BIG-bench's date_understanding (Srivastava et al., "Beyond
    the imitation game", 2022, arXiv 2206.04615), which Zhang et al., "The wisdom of hindsight
    makes language models better instruction followers", 2023, arXiv 2302.05206, train on.
    """

    family = DateItems
    bigbench_name = "date_understanding"
