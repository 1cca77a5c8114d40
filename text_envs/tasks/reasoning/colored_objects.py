"""Things in a row, each of a color: where, which, how many."""

from __future__ import annotations

from collections.abc import Iterable
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

__all__ = ["ColoredItems", "ReasoningAboutColoredObjects"]

COLORS = ("red", "blue", "green", "yellow", "white", "black", "pink", "orange", "purple", "brown")
THINGS = ("cup", "pen", "key", "ball", "book", "ring", "coin", "sock", "fork", "lamp", "hat",
          "brush")  # fmt: skip
QUESTIONS = ("color", "yes_no", "end", "beside", "farthest", "count", "remove", "neither")

# What is asked, and the same in few tokens; {c}, {d} are colors, {x} a thing, {w} a direction.
_ASKED = {
    "color": ("what color is the {x}?", "{x}?"),
    "yes_no": ("is the {x} {c}?", "{x} {c}?"),
    "end": ("what color is the {w}most thing?", "{w}?"),
    "beside": ("what color is the thing directly {w} of the {x}?", "{w} {x}?"),
    "farthest": ("what color is the thing farthest from the {x}?", "far {x}?"),
    "count": ("how many things are {c}?", "count {c}?"),
    "remove": ("if all {c} things are taken away, how many things remain?", "remove {c}?"),
    "neither": ("how many things are neither {c} nor {d}?", "neither {c} {d}?"),
}
_INTRO = "on the shelf stand, from left to right:"


@dataclass(frozen=True, kw_only=True)
class ColoredItems(Family):
    """Rows of things.

    Attributes:
        objects: things in the row, 2 to 8.
        colors: how many colors there are, 2 to 10.
        questions: kinds of questions, see `QUESTIONS`.
        num_options: of questions for a color, 2 to 7 and at most `colors`.
    """

    objects: int = 5
    colors: int = 10
    questions: tuple[str, ...] = QUESTIONS
    num_options: int = 5

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_range("objects", self.objects, 2, 8)
        check_range("colors", self.colors, 2, len(COLORS))
        check_range("num_options", self.num_options, 2, min(7, self.colors))
        check_subset("questions", self.questions, QUESTIONS)

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw a row and a question."""
        palette = COLORS[: self.colors]
        things = choose(rng, THINGS, self.objects)
        colors = [palette[i] for i in rng.integers(len(palette), size=self.objects).tolist()]
        kind = pick(rng, self.questions)
        text, gold, others = self._ask(rng, kind, things, colors)
        row = [f"{c} {x}" for c, x in zip(colors, things, strict=True)]
        told = " ".join(row) + "." if self.compact else f"{_INTRO} one {', one '.join(row)}."
        return Item(
            key=("colored", colors, things),
            text=f"{told} {text}",
            gold=(gold,),
            options=(gold, *others),
            details={"colors": colors, "things": things, "kind": kind},
        )

    def _ask(
        self, rng: np.random.Generator, kind: str, things: list[str], colors: list[str]
    ) -> tuple[str, str, list[str]]:
        """Return the question, its answer and the wrong options."""
        count = len(things)
        place, right = int(rng.integers(count)), bool(rng.integers(2))
        named, second = choose(rng, COLORS[: self.colors], 2)
        yes = rng.random() < 0.5
        if kind in ("count", "remove") or (kind == "yes_no" and yes):
            named = colors[place]
        elif kind == "yes_no" and named == colors[place]:
            named = second
        if kind == "beside":
            place = int(rng.integers(count - 1)) + (0 if right else 1)
        if kind == "farthest" and 2 * place == count - 1:
            place = 0  # in the middle there would be two answers
        text = _ASKED[kind][self.compact].format(
            x=things[place], c=named, d=second, w="right" if right else "left"
        )
        if kind == "yes_no":
            return text, *(("yes", ["no"]) if yes else ("no", ["yes"]))
        if kind in ("color", "end", "beside", "farthest"):
            seen = {
                "color": place,
                "end": count - 1 if right else 0,
                "beside": place + (1 if right else -1),
                "farthest": 0 if 2 * place > count - 1 else count - 1,
            }[kind]
            return text, colors[seen], self._other_colors(rng, colors, colors[seen])
        number = sum(
            {"count": c == named, "remove": c != named, "neither": c not in (named, second)}[kind]
            for c in colors
        )
        return text, str(number), [str(n) for n in range(count + 1) if n != number]

    def _other_colors(self, rng: np.random.Generator, colors: list[str], gold: str) -> list[str]:
        """Return wrong colors: those in the row first, or absence would give them away."""
        present = list(dict.fromkeys(choose(rng, colors, len(colors))))
        absent = [c for c in choose(rng, COLORS[: self.colors], self.colors) if c not in present]
        return [c for c in (*present, *absent) if c != gold][: self.num_options - 1]

    def texts(self) -> Iterable[str]:
        """Return every wording once."""
        yield " ".join(letter(place) for place in range(max(self.num_options, self.objects + 1)))
        yield " ".join((*COLORS[: self.colors], *THINGS, "yes no"))
        yield " ".join(map(str, range(self.objects + 1)))
        yield "." if self.compact else f"{_INTRO} one, one. ( )"
        yield from self._questions()

    def _questions(self) -> Iterable[str]:
        for kind in self.questions:
            for direction in ("left", "right"):
                yield _ASKED[kind][self.compact].format(x="cup", c="red", d="blue", w=direction)

    def columns(self) -> int:
        """Return the row, the longest question and the options."""
        options = self.option_columns(max(self.num_options, self.objects + 1))
        asked = longest(self._questions())
        if self.compact:
            return 2 * self.objects + 1 + asked + options
        return longest([_INTRO]) + 4 * self.objects + asked + options


class ReasoningAboutColoredObjects(ReasoningTask):
    """Answer a question about colored things in a row.

    ## Description
    The prompt names five different things from left to right, each with a color. The questions ask
    for the color of a thing, by name or by place (an end, beside another, farthest from another);
    whether a thing has a color; how many have one, remain without one, or have neither of two.
    The answer is a letter. A question of yes or no has two options, one for a number six, one for
    a color five.

    ## Action Space
    `Discrete(num_actions)`: the words of the family, letters included, and the end of the text.

    ## Observation Space
    `Box(0, vocab_size - 1, (L,), int64)`: the prompt, left-padded, then two columns for the
    answer; by default the shape is (70,).

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
    Difficulty: `objects=5`, 2 to 8; `colors=10`, 2 to 10; `questions`, default all: "color",
    "yes_no", "end", "beside", "farthest", "count", "remove", "neither"; `num_options=5`, of
    questions for a color; `style="sentences"` or "compact", few tokens for very small models.
    Data: `split="train"`, "validation" or "test", without a common context (the row);
    `seed=0`, `num_examples=None` (2000, 250, 250); `dataset=None`, a `task.json` of BIG-bench.
    Shape: `tokenizer=None`, `prompt_length=None`, `max_tokens=None`, `truncate_prompts=False`.
    For chat models: `chat=False`, True makes a user's message of each question, which goes through
    the chat template of `tokenizer`; `stop=()`: texts, or one, that end an answer.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The questions are of the kind of BIG-bench's reasoning_about_colored_objects (Srivastava et
    al., "Beyond the imitation game", 2022, arXiv 2206.04615), which Zhang et al., "The wisdom of
    hindsight makes language models better instruction followers", 2023, arXiv 2302.05206, train
    on.
    """

    family = ColoredItems
    bigbench_name = "reasoning_about_colored_objects"
