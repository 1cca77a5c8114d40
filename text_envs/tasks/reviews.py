"""Movie reviews: real words, a bundled language model, a learned reward that can be exploited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from text_envs.core.task import Task
from text_envs.episodes.errors import suggest
from text_envs.episodes.types import Example, Turns
from text_envs.tasks.shared.data import load_examples
from text_envs.tasks.shared.lengths import as_questions, columns_for
from text_envs.tasks.shared.sources import name_of
from text_envs.tasks.shared.unknown import MOST_UNKNOWN, check_words
from text_envs.tokens.assets import ASSETS
from text_envs.tokens.chat import Chat
from text_envs.tokens.loading import load_tokenizer

__all__ = ["COLUMNS", "PROMPTS", "SPLITS", "Reviews", "open_text"]

PROMPTS = ASSETS / "reviews" / "prompts.jsonl"
SPLITS = ("train", "validation", "test")

COLUMNS = 8  # of the bundled prompts

# What the scripted player writes, whatever the opening: praise that any tokenizer can spell.
_PRAISE = (
    "is a warm and funny film, beautifully acted and deeply moving.",
    "makes for one of the best films of the year.",
    "gives us a smart, charming and touching story with a perfect cast.",
    "is a powerful and delightful picture, full of humor and heart.",
)


class Reviews(Task):
    """Continue the opening of a movie review so that it reads as praise.

    ## Description
    The agent is given the first words of a short movie review and writes the rest, one word at a
    time. A learned model of sentiment pays for praise. It can be exploited, by repeating the
    words it likes, which is the point: what an agent does about it is what the methods of this
    suite are about. Everything works offline: words, prompts, reward and a small language model
    (`agents.load_lm("reviews")`) are bundled. On held-out reviews the reward model tells praise
    from blame with accuracy 0.767, and the language model needs 4.43 nats a known word; how both
    were made stands in `text_envs/assets/reviews/card.json`.

    ## Action Space
    `Discrete(num_actions)`: every known word or punctuation mark, and the end of the text.
    Unknown words, padding and the begin token lie outside the action space.

    ## Observation Space
    `Box(0, vocab_size - 1, (32,), int64)`: 8 prompt columns, left-padded, and 24 columns for the
    continuation, right-padded.

    ## Rewards
    0 until the text ends, then the probability, by a linear model over the agent's words, that
    the review is favourable. `reward=` takes any other reward model.

    ## Starting State
    An opening drawn uniformly from the split; `reset(options={"index": 3})` chooses one.

    ## Episode End
    The end-of-text token or one of `stop` (`finish_reason="stop"`), or 24 tokens (`"length"`); all
    terminate. A stop string stays in the text.

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `dataset=None`: prompts in place of the bundled
    openings: a `.txt`, `.csv`, `.tsv`, `.json`, `.jsonl` or `.parquet` file, a Hub name, a data set
    or a list, of texts or of lists of messages (`[{"role": ..., "content": ...}]`), which go
    through the tokenizer's chat template. `chat=False`: make messages of texts, too.
    `prompt_column=None`, `reference_column=None`: the columns of prompt and reference in it;
    `field=None` is an older name of the first. `max_unknown=0.5`: words of your prompts that the
    tokenizer lacks are warned of, and refused above this share. `opening_words=None`: keep that
    many words of each text as the prompt and the rest as its reference. `tokenizer=None`: any
    transformers tokenizer with a padding token, or its name. `prompt_length=None`, `max_tokens=24`:
    columns; the prompt has 8, or what your prompts need where that is more, which is said.
    `truncate_prompts=False`: shorten prompts to `prompt_length` (or 8) instead. `stop=()`: texts,
    or one, with which a text ends. `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in
    every environment.

    ## Version History
    v0: first version.

    ## References
    Positive continuation of movie reviews is the first task of Ziegler et al., "Fine-tuning
    language models from human preferences", 2019, arXiv 1909.08593, and of most papers since.
    """

    reward = "sentiment"
    qualities = ("random", "mixed", "expert")

    def __init__(
        self,
        *,
        split: str = "train",
        dataset: Any = None,
        prompt_column: str | None = None,
        reference_column: str | None = None,
        field: str | None = None,
        max_unknown: float = MOST_UNKNOWN,
        opening_words: int | None = None,
        tokenizer: Any = None,
        prompt_length: int | None = None,
        max_tokens: int = 24,
        truncate_prompts: bool = False,
        chat: bool = False,
        stop: str | Sequence[str] = (),
    ) -> None:
        """Load the openings.

        Args:
            split: which part of the data.
            dataset: prompts of your own, see `text_envs.tasks.shared.data.load_examples`.
            prompt_column: the key that holds the prompt in `dataset`.
            reference_column: the key that holds references.
            field: an older name of `prompt_column`.
            max_unknown: the share of words in your prompts that the tokenizer may lack.
            opening_words: cut each text after that many words.
            tokenizer: a tokenizer, or its name; default the bundled word tokenizer.
            prompt_length: columns for the prompt; None for 8, or for what your prompts need.
            max_tokens: columns for the continuation.
            truncate_prompts: keep the last tokens of a prompt that does not fit.
            chat: make a user's message of each prompt that is a text.
            stop: texts with which a text ends.
        """
        if dataset is None and split not in SPLITS:
            raise ValueError(f"unknown split {split!r}.{suggest(str(split), SPLITS)}")
        examples = load_examples(
            PROMPTS if dataset is None else dataset, split=split, prompt_column=prompt_column,
            reference_column=reference_column, field=field,
        )  # fmt: skip
        if opening_words is not None:
            examples = [open_text(example, opening_words) for example in examples]
        examples = as_questions(examples) if chat else examples
        loaded = load_tokenizer("reviews" if tokenizer is None else tokenizer)
        if dataset is not None:
            check_words(examples, loaded, source=name_of(dataset), max_unknown=max_unknown)
        fitting, columns = columns_for(
            examples, loaded, prompt_length, default=COLUMNS,
            own=dataset is not None or tokenizer is not None,
            truncate=truncate_prompts, source=name_of(PROMPTS if dataset is None else dataset),
        )  # fmt: skip
        super().__init__(
            fitting,
            tokenizer=loaded,
            prompt_length=columns,
            max_tokens=max_tokens,
            truncate_prompts=truncate_prompts,
            stop=stop,
        )

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Write a line of praise and end the text."""
        end = self.tokenizer.eos_id
        drawn = [_PRAISE[rng.integers(len(_PRAISE))] for rng in turns.rngs]
        return [[*self.tokenizer.encode(line)[: self.max_tokens - 1], end] for line in drawn]


def open_text(example: Example, words: int) -> Example:
    """Keep the first `words` words as the prompt; what they leave is the reference."""
    if words < 1:
        raise ValueError(f"opening_words must be at least 1, got {words!r}")
    if isinstance(example.prompt, Chat):
        raise ValueError(
            f"opening_words={words} cuts texts into prompt and reference, and prompts of messages "
            "are whole; accepted: None, with the answers in a column of references"
        )
    parts = example.prompt.split()
    rest = " ".join(parts[words:])
    references = example.references or ((rest,) if rest else ())
    return Example(" ".join(parts[:words]), references, example.metadata)
