"""Bring your own prompts, tokenizer and reward: the task that assumes nothing about any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from text_envs.core.task import Task
from text_envs.episodes.errors import suggest
from text_envs.episodes.types import Example, Turns
from text_envs.rewards import Length
from text_envs.tasks.reviews import PROMPTS
from text_envs.tasks.shared.data import load_examples
from text_envs.tasks.shared.lengths import as_questions, fit_prompts
from text_envs.tasks.shared.sources import name_of
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tasks.shared.unknown import MOST_UNKNOWN, check_words
from text_envs.tokens.encoding import reference_tokens
from text_envs.tokens.loading import load_tokenizer

__all__ = ["Generation", "reference_tokens"]


class Generation(Task):
    """Continue any prompts, in any vocabulary, for any reward.

    ## Description
    One call makes an environment of your own data:
    `gym.make("text_envs/Generation-v0", dataset=["Once upon a time", ...], tokenizer="gpt2",
    reward=my_reward)`. Without arguments it continues the bundled review openings and asks for
    texts of a certain length, which needs nothing else and shows that everything is in place.

    ## Action Space
    `Discrete(num_actions)`: the tokens of the tokenizer that may be written, 4001 with the bundled
    one, the end of the text among them.

    ## Observation Space
    `Box(0, vocab_size - 1, (31,), int64)`: as many prompt columns as the longest prompt needs (7
    for the bundled openings), left-padded, and 24 columns for the text, right-padded.

    ## Rewards
    0 until the text ends, then what `reward` says; by default -|n - 12| for n words, 12 being
    half of `max_tokens`: the agent has to learn when to stop.

    ## Starting State
    A prompt drawn uniformly; `reset(options={"index": 3})` chooses one.

    ## Episode End
    An end-of-text token, of which chat models have several, or one of `stop`
    (`finish_reason="stop"`), `max_tokens` tokens (`"length"`), or a special token of a foreign
    tokenizer (`"forbidden"`); all terminate. A stop string stays in the text.

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `dataset=None`: a list of prompts or of mappings, a `.txt` file (a prompt a line), a `.csv`,
    `.tsv`, `.json`, `.jsonl` or `.parquet` file (each also with `.gz` behind), a Hub name, a data
    set of the package `datasets`, or a table of pandas. `prompt_column=None`: the key or column
    that holds the prompt; default `prompt`, then `text`. `reference_column=None`: the one that
    holds a reference, or a list of them; default `references`, then `reference`. A prompt may be a
    list of messages, `[{"role": "user", "content": "..."}]`, also in a column `messages`; it goes
    through the tokenizer's chat template. `chat=False`: make messages of prompts that are texts,
    too. `field=None`: an older name of `prompt_column`. `split="train"`: of a Hub data set, of rows
    with a key `split`, and of the bundled openings. `tokenizer="reviews"`: a tokenizer, a
    transformers tokenizer, a path or a Hub name; one without a padding token gets one in a copy.
    `max_unknown=0.5`: words of your prompts that the tokenizer lacks are warned of, and refused
    above this share. `prompt_length=None`: columns for the prompt; default what the longest prompt
    needs, but at most `max_prompt_length=256`; prompts far longer than 95% of them are left out,
    and it is said. `stop=()`: texts, or one, with which a text ends. `truncate_prompts=False`: keep
    the last tokens of prompts that do not fit instead of refusing them. `max_tokens=24`.
    `reward=None`: anything that `text_envs.rewards.resolve` accepts. `reward_kwargs`,
    `action_mask`, `render_mode` as in every environment. A reference of the data is what the
    scripted expert writes; without one the expert does what is best for the default reward and for
    no other.

    ## Version History
    v0: first version.

    ## References
    None: this is the suite's doorway for data that it does not know.
    """

    qualities = ("random", "mixed", "expert")

    def __init__(
        self,
        *,
        dataset: Any = None,
        prompt_column: str | None = None,
        reference_column: str | None = None,
        field: str | None = None,
        split: str = "train",
        tokenizer: Any = "reviews",
        max_unknown: float = MOST_UNKNOWN,
        prompt_length: int | None = None,
        max_prompt_length: int = 256,
        max_tokens: int = 24,
        truncate_prompts: bool = False,
        chat: bool = False,
        stop: str | Sequence[str] = (),
    ) -> None:
        """Load the prompts.

        Args:
            dataset: the prompts, see `text_envs.tasks.shared.data.load_examples`.
            prompt_column: the key that holds the prompt.
            reference_column: the key that holds references.
            field: an older name of `prompt_column`.
            split: which part of the data.
            tokenizer: see `text_envs.tokenizers.load_tokenizer`; padding is added where it lacks.
            max_unknown: the share of words in the prompts that the tokenizer may lack.
            prompt_length: columns for the prompt, None for what the data needs.
            max_prompt_length: the most columns that None stands for.
            max_tokens: columns for the text.
            truncate_prompts: keep the last tokens of a prompt that does not fit.
            chat: make a user's message of each prompt that is a text.
            stop: texts with which a text ends.
        """
        if dataset is None and split not in SPLITS:
            raise ValueError(f"unknown split {split!r}.{suggest(str(split), SPLITS)}")
        examples: Sequence[Example] = load_examples(
            PROMPTS if dataset is None else dataset, split=split, prompt_column=prompt_column,
            reference_column=reference_column, field=field,
        )  # fmt: skip
        examples = as_questions(examples) if chat else examples
        loaded = load_tokenizer(tokenizer, add_padding=True)
        if dataset is not None:
            check_words(examples, loaded, source=name_of(dataset), max_unknown=max_unknown)
        if prompt_length is None:
            if not isinstance(max_prompt_length, int) or max_prompt_length < 1:
                raise ValueError(
                    f"max_prompt_length must be an integer of at least 1, got {max_prompt_length!r}"
                )
            examples, prompt_length = fit_prompts(
                examples, loaded, source=name_of(PROMPTS if dataset is None else dataset),
                most=max_prompt_length, truncate=truncate_prompts,
            )  # fmt: skip
        super().__init__(
            examples,
            tokenizer=loaded,
            prompt_length=prompt_length,
            max_tokens=max_tokens,
            truncate_prompts=truncate_prompts,
            stop=stop,
        )
        self.target_length = self.max_tokens // 2
        self.reward = Length(target=self.target_length)

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Write the first reference of each example; without one, as many words as are paid."""
        return [self._expert(index) for index in turns.example_indices.tolist()]

    def _expert(self, index: int) -> list[int]:
        references = self.example(index).references
        if references:
            return reference_tokens(references[0], self.tokenizer, self.max_tokens)
        words = np.flatnonzero(~self.tokenizer.forbidden)
        word = int(words[words != self.tokenizer.eos_id][0])
        return [*[word] * self.target_length, self.tokenizer.eos_id]
