"""Counting the things of one kind among others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from text_envs.tasks.reasoning.base import ReasoningTask
from text_envs.tasks.reasoning.items import Family, Item, check_range, choose, near_numbers

__all__ = ["CountingItems", "ObjectCounting"]

# kind: (singular, plural) of its things
KINDS: dict[str, tuple[tuple[str, str], ...]] = {
    "fruits": tuple((n, f"{n}s") for n in (
        "apple", "pear", "plum", "lemon", "banana", "melon", "mango", "fig", "grape", "lime",
        "kiwi", "apricot")),
    "animals": tuple((n, f"{n}s") for n in (
        "cat", "dog", "hen", "goat", "horse", "cow", "duck", "rabbit", "frog", "snail", "parrot",
        "hamster")),
    "tools": tuple((n, f"{n}s") for n in (
        "hammer", "saw", "drill", "spade", "rake", "chisel", "file", "wrench", "ladder", "clamp",
        "plane", "axe")),
    "vegetables": tuple((n, f"{n}s") for n in (
        "carrot", "onion", "leek", "turnip", "pepper", "bean", "pea", "beet", "pumpkin", "cabbage",
        "cucumber", "courgette")),
    "instruments": tuple((n, f"{n}s") for n in (
        "drum", "flute", "harp", "lute", "horn", "violin", "cello", "organ", "guitar", "piano",
        "trumpet", "banjo")),
}  # fmt: skip
KINDS["tools"] = tuple((s, "wrenches" if s == "wrench" else p) for s, p in KINDS["tools"])
_NUMBERS = ("one", "two", "three", "four", "five")
_HOW_OFTEN = (0.80, 0.10, 0.06, 0.03, 0.01)  # of counting one, two, ... of a thing
_MOST_DECOYS = 3


@dataclass(frozen=True, kw_only=True)
class CountingItems(Family):
    """Lists of things.

    Attributes:
        min_items: fewest different things of the kind asked for.
        max_items: most of them, up to 12.
        max_count: most of one thing, 1 to 5.
        kinds: how many kinds of things there are, 1 to 5.
        decoy_rate: how often things of another kind stand among them; needs two kinds.
    """

    min_items: int = 2
    max_items: int = 10
    max_count: int = 5
    kinds: int = 5
    decoy_rate: float = 0.25

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_range("max_items", self.max_items, 1, 12)
        check_range("min_items", self.min_items, 1, self.max_items)
        check_range("max_count", self.max_count, 1, 5)
        check_range("kinds", self.kinds, 1, len(KINDS))
        if not 0 <= self.decoy_rate <= 1:
            raise ValueError(f"decoy_rate must lie in 0..1, got {self.decoy_rate!r}")
        if self.decoy_rate > 0 and self.kinds == 1:
            raise ValueError("decoys come from another kind; pass decoy_rate=0 with kinds=1")

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw things of a kind, how many of each, and perhaps some of another kind."""
        kind, other = (choose(rng, list(KINDS)[: self.kinds], 2) * 2)[:2]
        count = int(rng.integers(self.min_items, self.max_items + 1))
        things = [(*thing, True) for thing in choose(rng, KINDS[kind], count)]
        if rng.random() < self.decoy_rate:
            decoys = choose(rng, KINDS[other], 1 + int(rng.integers(_MOST_DECOYS)))
            things += [(*thing, False) for thing in decoys]
        things = choose(rng, things, len(things))
        cumulated = np.cumsum(_HOW_OFTEN[: self.max_count])
        drawn = np.searchsorted(cumulated, rng.random(len(things)) * cumulated[-1], side="right")
        numbers = (drawn + 1).tolist()
        total = sum(n for n, (_, _, counted) in zip(numbers, things, strict=True) if counted)
        items = [
            (n, singular if n == 1 else plural)
            for n, (singular, plural, _) in zip(numbers, things, strict=True)
        ]
        wrong = [str(n) for n in near_numbers(rng, total, 5) if n != total]
        return Item(
            key=("counting", *sorted(items)),
            text=self._written(kind, items),
            gold=(str(total),),
            wrong=tuple(wrong),
            details={"kind": kind, "items": items},
        )

    def _written(self, kind: str, items: list[tuple[int, str]]) -> str:
        if self.compact:
            return " ".join([*(f"{n} {name}" for n, name in items), f"? {kind}"])
        parts = [f"{_NUMBERS[n - 1]} {name}" for n, name in items]
        listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
        return f"i have {listed}. how many {kind} do i have?"

    def texts(self) -> Iterable[str]:
        """Return every wording once; answers and near misses are numbers."""
        yield " ".join(map(str, range(self.max_items * self.max_count + 5)))
        for kind in list(KINDS)[: self.kinds]:
            yield kind
            for singular, plural in KINDS[kind]:
                yield singular if self.max_count == 1 else f"{singular} {plural}"
        if self.compact:
            yield "?"
            return
        yield "i have , and . how many do i have ?"
        yield " ".join(_NUMBERS[: self.max_count])

    def columns(self) -> int:
        """Return the longest list and its question."""
        most = self.max_items + (_MOST_DECOYS if self.decoy_rate > 0 else 0)
        return 2 * most + 2 if self.compact else 2 + 3 * most + 7


class ObjectCounting(ReasoningTask):
    """Count the things of one kind in a list and write the number.

    ## Description
    The prompt lists 2 to 10 different things of one kind, mostly one of each, and in one item out
    of four some things of another kind. The question asks how many of the first kind there are.
    The answer is a number in digits, one token.

    ## Action Space
    `Discrete(num_actions)`: the words of the family, numbers included, and the end of the text.

    ## Observation Space
    `Box(0, vocab_size - 1, (L,), int64)`: the prompt, left-padded, then two columns for the
    answer; by default the shape is (51,).

    ## Rewards
    At the end 1 if the answer is the number, up to spaces and full stops, else 0. `reward=` takes
    any other reward model.

    ## Starting State
    A question drawn uniformly from the split; `reset(options={"index": 3})` chooses one.

    ## Episode End
    The end-of-text token (`finish_reason="stop"`) or the last column (`"length"`).

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    Difficulty: `min_items=2` and `max_items=10` different things, up to 12; `max_count=5`, most of
    one thing, 1 to 5; `kinds=5`, 1 to 5; `decoy_rate=0.25`; `style="sentences"` or "compact", few
    tokens for very small models.
    Data: `split="train"`, "validation" or "test", without a common context (things and numbers);
    `seed=0`, `num_examples=None` (2000, 250, 250); `dataset=None`, a `task.json` of BIG-bench.
    Shape: `tokenizer=None`, `prompt_length=None`, `max_tokens=None`, `truncate_prompts=False`.
    For chat models: `chat=False`, True makes a user's message of each question, which goes through
    the chat template of `tokenizer`; `stop=()`: texts, or one, that end an answer.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The questions are of the kind of BIG-bench's object_counting (Srivastava et al., "Beyond the
    imitation game", 2022, arXiv 2206.04615), which Zhang et al., "The wisdom of hindsight makes
    language models better instruction followers", 2023, arXiv 2302.05206, train on.
    """

    family = CountingItems
    bigbench_name = "object_counting"
