"""A post to a one-line summary, judged by a learned preference that can be over-optimised."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from text_envs.core.reward import RewardModel
from text_envs.core.task import Task
from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example, Turns
from text_envs.rewards.builtin import Length, WeightedSum
from text_envs.rewards.overlap import Rouge
from text_envs.rewards.preference import Preference
from text_envs.tasks.shared.components import checked_weights
from text_envs.tasks.shared.lengths import columns_for
from text_envs.tasks.shared.procedural import DEFAULT_SIZES
from text_envs.tasks.shared.scripted import as_turn
from text_envs.tasks.shared.sources import name_of
from text_envs.tasks.shared.unknown import check_words
from text_envs.tasks.summarization import grammar
from text_envs.tasks.summarization.data import as_example, load_posts
from text_envs.tokens.loading import load_tokenizer

__all__ = ["Summarization"]

_COMPONENTS: Mapping[str, Callable[[], RewardModel]] = {
    "preference": Preference,
    "length": functools.partial(Length, scale=-1.0),
    "rouge": Rouge,
}
# Kinds of summaries in the behaviour data: a third is good, each fault is as common as another.
_GOOD_SHARE = 1 / 3


class Summarization(Task):
    """Summarise a post in one line.

    ## Description
    Somebody asks strangers for advice: who did what with which of their things, why, and what
    they want to know. The agent writes the one-line summary. A preference model, fitted on pairs
    of summaries of which one was made worse, pays. It agrees with the pairs (97 held-out pairs in
    100, see `text_envs/assets/summaries/card.json`) and yet can be over-optimised: it counts
    words and lengths and reads no sentence, so a pile of the post's rarest words scores above
    every good summary. How far an agent goes there, and what keeps it from going, can be
    measured by ROUGE with the references.

    ## Action Space
    `Discrete(199)`: every word and mark of the grammar, and the end of the text.

    ## Observation Space
    `Box(0, 201, (88,), int64)`: 64 prompt columns, left-padded, that end with "tl;dr:", and 24
    columns for the summary, right-padded.

    ## Rewards
    At the end the sum of named components, each times its weight:
    `preference` (1), log-odds by which the model prefers the text to a good summary, so good
    ones score 0 on average; `length` (0), minus the number of words; `rouge` (0), ROUGE-L with
    the references, by the package of the extra `metrics`. The weights are those of `weights`.

    ## Starting State
    A post drawn uniformly from the split; no story stands in two splits.

    ## Episode End
    The end-of-text token (`finish_reason="stop"`) or 24 tokens (`"length"`); both terminate.

    ## Information
    `example_index` and `reward_terms`, with the components, at every step; `finish_reason`, `text`
    and `roles`, which are empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `size=None`: number of posts, default 2048 for
    training and 256 for the others. `data_seed=0`: of the grammar's draws. `weights=None`: weights
    of the components, `{"preference": 1.0}` by default; those not named are left out.
    `dataset=None`: posts as JSON, CSV, parquet, a Hub name or a list of mappings, with fields
    `prompt` and `completion`, `post` and `summary`, or `content` and `summary`. `tokenizer=None`:
    any transformers tokenizer, or its name; by default the grammar's words, or "reviews" with a
    `dataset`, which cannot write every word. `prompt_length=None`, `max_tokens=24`: columns; the
    prompt has 64, or what your data needs where that is more, which is said. `stop=()`: texts, or
    one, with which a text ends. `truncate_prompts=False`: cut the end of a post that does not fit
    and ask "TL;DR:" again, instead of refusing it. `reward`, `reward_kwargs`, `action_mask`,
    `render_mode` as in every environment.

    Demonstrations have the qualities "random", "expert" (a good summary), each fault by name
    ("missing", "wrong", "repeated", "truncated", "verbose") and "mixed" (a third good, the rest
    faulty). With a `dataset` "expert" and "mixed" repeat a reference.

    ## Version History
    v0: first version.

    ## References
    Stiennon et al., "Learning to summarize from human feedback", 2020, arXiv 2009.01325; the
    posts and summaries of Reddit are those of Völske et al., "TL;DR: mining Reddit to learn
    automatic summarization", 2017.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        size: int | None = None,
        data_seed: int = 0,
        weights: Mapping[str, float] | None = None,
        dataset: Any = None,
        tokenizer: Any = None,
        prompt_length: int | None = None,
        max_tokens: int = 24,
        truncate_prompts: bool = False,
        stop: str | Sequence[str] = (),
    ) -> None:
        """Draw the posts, or load them.

        Args:
            split: which part of the data.
            size: number of posts drawn from the grammar.
            data_seed: of the draws.
            weights: component to weight.
            dataset: posts, see `text_envs.tasks.summarization.data.load_posts`.
            tokenizer: a tokenizer, or its name.
            prompt_length: columns for post and "tl;dr:"; None for 64, or for what your data needs.
            max_tokens: columns for the summary.
            truncate_prompts: cut the end of posts that do not fit.
            stop: texts with which a text ends.

        Raises:
            ValueError: an unknown split or component, a size below 1, or a post that does not fit.
            DatasetError: data that cannot be used.
        """
        chosen = {"preference": 1.0} if weights is None else weights
        self._component_weights = checked_weights(chosen, _COMPONENTS)
        examples: Sequence[Example]
        given = tokenizer is not None
        if dataset is None:
            size = DEFAULT_SIZES.get(split, 1) if size is None else size
            examples = _examples(split, size, data_seed)
            kinds: tuple[str, ...] = ("expert", "mixed", *grammar.FAULTS)
            tokenizer = grammar.tokenizer() if tokenizer is None else tokenizer
        else:
            examples = load_posts(dataset, split=split)
            kinds = ("expert", "mixed") if all(e.references for e in examples) else ()
        self.qualities: tuple[str, ...] = ("random", *kinds)
        words = load_tokenizer("reviews" if tokenizer is None else tokenizer)
        if dataset is not None:
            check_words(examples, words, source=name_of(dataset), max_unknown=None)
        examples, columns = columns_for(
            examples, words, prompt_length, default=64, own=dataset is not None or given,
            truncate=truncate_prompts, source=name_of(self if dataset is None else dataset),
        )  # fmt: skip
        super().__init__(
            examples,
            tokenizer=words,
            prompt_length=columns,
            max_tokens=max_tokens,
            truncate_prompts=truncate_prompts,
            stop=stop,
        )
        if truncate_prompts:
            self._ask_again()

    def _ask_again(self) -> None:
        """Put the beginning of every post that was too long before the question for a summary."""
        ask = self.tokenizer.encode("\nTL;DR:")
        room = self.prompt_length - len(ask)
        if room < 2:
            raise ValueError(
                f"prompt_length={self.prompt_length} leaves no room for a post: asking for the "
                f"summary takes {len(ask)} tokens"
            )
        # A full row is one that was cut, or one that fits exactly, for which this changes nothing.
        full = np.flatnonzero(self._prompts[:, 0] != self.tokenizer.pad_id)
        for row in full.tolist():
            if len(self.tokenizer.encode_prompt(self.examples[row].prompt)) > self.prompt_length:
                post = self.tokenizer.encode_prompt(self.examples[row].metadata["post"])
                self._prompts[row] = [*post[:room], *ask]

    @functools.cached_property
    def reward(self) -> RewardModel:
        """The weighted components; made when asked for, as another reward may be chosen.

        Raises:
            DatasetError: ROUGE compares with references and an example has none.
        """
        if "rouge" in self._component_weights:
            for example in self.examples:
                if not example.references:
                    raise DatasetError(
                        f"the post {example.metadata['post'][:60]!r}... has no summary, and the "
                        "component 'rouge' compares with it"
                    )
        return WeightedSum(
            {name: (w, _COMPONENTS[name]()) for name, w in self._component_weights.items()}
        )

    def draw_qualities(self, quality: str, rngs: Sequence[np.random.Generator]) -> list[str]:
        """Return the kind of each summary; "mixed" draws good ones and faults."""
        if quality != "mixed":
            return [quality] * len(rngs)
        if "wrong" not in self.qualities:
            return ["mixed"] * len(rngs)
        faults = grammar.FAULTS
        return [
            "reference" if rng.random() < _GOOD_SHARE else faults[int(rng.integers(len(faults)))]
            for rng in rngs
        ]

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Write a summary of the asked kind of each post."""
        drawn = zip(turns.example_indices.tolist(), qualities, turns.rngs, strict=True)
        texts = [self._write(self.example(index), kind, rng) for index, kind, rng in drawn]
        return [as_turn(text, self.tokenizer) for text in texts]

    @staticmethod
    def _write(example: Example, kind: str, rng: np.random.Generator) -> str:
        if kind == "expert":
            return example.references[0]
        text = example.references[int(rng.integers(len(example.references)))]
        if kind in grammar.FAULTS:
            return grammar.degrade(text, kind, example.metadata["story"], rng)
        return text


@functools.lru_cache(maxsize=8)
def _examples(split: str, size: int, seed: int) -> tuple[Example, ...]:
    return tuple(
        as_example(grammar.post(story), grammar.summaries(story), story=story)
        for story in grammar.draw_stories(split, size, seed)
    )
