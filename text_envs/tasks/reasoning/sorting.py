"""Putting words into alphabetical order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from text_envs.tasks.reasoning.base import ReasoningTask
from text_envs.tasks.reasoning.items import Family, Item, check_range, choose

__all__ = ["WORDS", "SortingItems", "WordSorting"]

# In no order, so that the first few of them lie far apart in the alphabet.
WORDS = tuple(
    """
    river candle orbit maple tunnel anchor pepper garden velvet beacon lantern copper window island
    engine mirror harbor saddle thunder basket needle violin kettle forest yellow dragon umbrella
    jacket quarry zebra pillow rocket summit marble feather onion ladder carpet helmet bridge
    walnut garlic temple insect oyster puzzle turtle acorn barrel canyon desert eagle fabric
    glacier hammer iron jungle kitten lemon meadow nectar olive parrot quilt ribbon silver tiger
    urchin valley whistle yard zipper apron bottle clover dolphin ember fountain grape hazel
    icicle jewel knight lizard mango nutmeg otter pebble quiver raven shadow timber uncle vapor
    wagon yogurt zenith almond blanket cactus donkey echo falcon ginger hornet idol juniper kernel
    lily magnet napkin oven pigeon queen rabbit spider tomato urban vessel wizard yonder arrow
    butter comet dune elbow finch goblin hedge inkwell jigsaw koala lobster muffin nephew oxygen
    planet quartz racket salmon teapot unit village willow yacht amber button camel dagger elm
    ferry gravel heron ivory jelly kiosk lever moss nickel opera pearl quill rust stove trumpet
    usher vine wrist yolk ant bean cave dusk earth frost goose hive ink joke kelp lava mint nest
    oak pond rain seed toad vest wolf yarn bark cliff dawn fern gold
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class SortingItems(Family):
    """Lists of different words.

    Attributes:
        min_words: fewest words in a list, at least 2.
        max_words: most of them, up to 20.
        vocabulary: how many words there are to draw from; None for all.
    """

    min_words: int = 2
    max_words: int = 20
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_range("max_words", self.max_words, 2, 20)
        check_range("min_words", self.min_words, 2, self.max_words)
        if self.vocabulary is not None:
            check_range("vocabulary", self.vocabulary, self.max_words, len(WORDS))

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw words; wrong answers swap two neighbours of the right one, or leave one word out."""
        count = int(rng.integers(self.min_words, self.max_words + 1))
        words = choose(rng, WORDS[: self.vocabulary], count)
        right = sorted(words)
        at = int(rng.integers(count - 1))
        swapped = [*right[:at], right[at + 1], right[at], *right[at + 2 :]]
        listed = " ".join(words)
        return Item(
            key=("sorting", right),
            text=listed if self.compact else f"sort these words by the alphabet: {listed}",
            gold=(" ".join(right),),
            wrong=(" ".join(swapped), " ".join(right[:at] + right[at + 1 :])),
            details={"words": words},
        )

    def texts(self) -> Iterable[str]:
        """Return every word once."""
        yield " ".join(WORDS[: self.vocabulary])
        if not self.compact:
            yield "sort these words by the alphabet:"

    def columns(self) -> int:
        """Return the longest list and what stands before it."""
        return self.max_words + (0 if self.compact else 7)

    def answer_columns(self) -> int:
        """Return the longest list."""
        return self.max_words


class WordSorting(ReasoningTask):
    """Write a list of words in alphabetical order.

    ## Description
    The prompt lists 2 to 20 different words in lower case, the answer is all of them in the order
    of the alphabet: the longest answers of the reasoning tasks, one token a word.

    ## Action Space
    `Discrete(num_actions)`: the words of the family and the end of the text.

    ## Observation Space
    `Box(0, vocab_size - 1, (L,), int64)`: the prompt, left-padded, then 21 columns for the answer
    and its end; by default the shape is (49,).

    ## Rewards
    At the end 1 if the answer is the whole list in order, up to spaces and full stops, else 0.
    `reward=` takes any other reward model.

    ## Starting State
    A question drawn uniformly from the split; `reset(options={"index": 3})` chooses one.

    ## Episode End
    The end-of-text token (`finish_reason="stop"`) or the last column (`"length"`).

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    Difficulty: `min_words=2`, `max_words=20`; `vocabulary=None`, all words, or so many;
    `style="sentences"` or "compact", few tokens for very small models.
    Data: `split="train"`, "validation" or "test", without a common context (the set of words);
    `seed=0`, `num_examples=None` (2000, 250, 250); `dataset=None`, a `task.json` of BIG-bench.
    Shape: `tokenizer=None`, `prompt_length=None`, `max_tokens=None`, `truncate_prompts=False`.
    For chat models: `chat=False`, True makes a user's message of each question, which goes through
    the chat template of `tokenizer`; `stop=()`: texts, or one, that end an answer.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The questions are of the kind of BIG-bench's word_sorting (Srivastava et al., "Beyond the
    imitation game", 2022, arXiv 2206.04615), which Zhang et al., "The wisdom of hindsight makes
    language models better instruction followers", 2023, arXiv 2302.05206, train on.
    """

    family = SortingItems
    bigbench_name = "word_sorting"
