"""Concepts to a sentence: say everything you are given, the way people would."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from text_envs.core.reward import RewardModel
from text_envs.core.task import Task
from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example, Turns
from text_envs.rewards.builtin import WeightedSum
from text_envs.rewards.ciderd import CiderD
from text_envs.rewards.overlap import Bleu, Coverage, Rouge
from text_envs.tasks.concepts import grammar
from text_envs.tasks.concepts.data import load_concepts
from text_envs.tasks.shared.components import checked_weights
from text_envs.tasks.shared.lengths import columns_for
from text_envs.tasks.shared.procedural import DEFAULT_SIZES
from text_envs.tasks.shared.scripted import as_turn
from text_envs.tasks.shared.sources import name_of
from text_envs.tasks.shared.unknown import check_words
from text_envs.tokens.loading import load_tokenizer

__all__ = ["ConceptsToSentence"]

_WEIGHTS = {"coverage": 1.0, "ciderd": 1.0}
_COMPONENTS = ("coverage", "ciderd", "bleu", "rouge")
# Kinds of sentences in the behaviour data: two in five are good.
_KINDS = {"reference": 0.4, "partial": 0.2, "list": 0.2, "mismatched": 0.2}


class ConceptsToSentence(Task):
    """Write one sentence that uses all the given concepts.

    ## Description
    The prompt names three to five concepts in random order: `generate a sentence with : park
    catch dog frisbee .` A good text is a plain everyday scene that uses them all in some
    inflection: "a dog catches a frisbee in the park." Listing the concepts covers them, but no
    reference reads like that; a fluent sentence about something else covers nothing. Scenes come
    from a grammar that knows who does what to what, where and with which tool.

    ## Action Space
    `Discrete(242)`: every word and mark of the grammar, and the end of the text.

    ## Observation Space
    `Box(0, 244, (32,), int64)`: 12 prompt columns, left-padded, and 20 columns for the sentence,
    right-padded.

    ## Rewards
    At the end the sum of named components, each times its weight:
    `coverage` (1), the share of concepts whose Porter stem occurs; `ciderd` (1), CIDEr-D with the
    references, 0 to 10, its n-gram weights from the references of the TRAINING split;
    `bleu` and `rouge` (0), 0 to 1, by the packages of the extra `metrics`. The weights are those
    of `weights`.

    ## Starting State
    A concept set drawn uniformly from the split; no set of concepts stands in two splits, in
    whatever order.

    ## Episode End
    The end-of-text token (`finish_reason="stop"`) or 20 tokens (`"length"`); both terminate.

    ## Information
    `example_index` and `reward_terms`, with the components, at every step; `finish_reason`, `text`
    and `roles`, which are empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `size=None`: number of scenes, default 2048 for
    training and 256 for the others. `data_seed=0`: of the grammar's draws. `weights=None`: weights
    of the components, `{"coverage": 1.0, "ciderd": 1.0}` by default; those not named are left out.
    `dataset=None`: CommonGen or data like it, as JSON, CSV, parquet, a Hub name or a list of
    mappings, with fields `concept_set_idx`, `concepts`, `target`, or `concept_set`
    ("dog#catch#frisbee") and `scene`. `training_dataset=None`: where the n-gram weights come from
    when `dataset` is evaluation data; by default the split "train" of `dataset`. `tokenizer=None`:
    any transformers tokenizer, or its name; by default the grammar's words, or "reviews" with a
    `dataset`, which cannot write every word; stems of other words need the extra `metrics`.
    `prompt_length=None`, `max_tokens=20`: columns; the prompt has 12, or what your data needs where
    that is more, which is said. `stop=()`: texts, or one, with which a text ends.
    `truncate_prompts=False`: keep the end of a prompt that does not fit instead of refusing it.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    Demonstrations have the qualities "random", "expert" (the reference that agrees most with the
    others), "reference" (any of them), "partial" (half a reference), "list" (the concepts as they
    stand), "mismatched" (a reference of another set) and "mixed" (the last four at 2 : 1 : 1 : 1).

    ## Version History
    v0: first version.

    ## References
    Lin et al., "CommonGen: a constrained text generation challenge for generative commonsense
    reasoning", 2020, arXiv 1911.03705; as a task for RL with a guide in Chang et al., "Learning
    to generate better than your LLM", 2023, arXiv 2306.11816.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        size: int | None = None,
        data_seed: int = 0,
        weights: Mapping[str, float] | None = None,
        dataset: Any = None,
        training_dataset: Any = None,
        tokenizer: Any = None,
        prompt_length: int | None = None,
        max_tokens: int = 20,
        truncate_prompts: bool = False,
        stop: str | Sequence[str] = (),
    ) -> None:
        """Draw the scenes, or load concept sets.

        Args:
            split: which part of the data.
            size: number of scenes drawn from the grammar.
            data_seed: of the draws.
            weights: component to weight.
            dataset: concept sets, see `text_envs.tasks.concepts.data.load_concepts`.
            training_dataset: concept sets whose references weigh the n-grams of CIDEr-D.
            tokenizer: a tokenizer, or its name.
            prompt_length: columns for the prompt; None for 12, or for what your data needs.
            max_tokens: columns for the sentence.
            truncate_prompts: keep the last tokens of a prompt that does not fit.
            stop: texts with which a text ends.

        Raises:
            ValueError: an unknown split or component, a size below 1, or a prompt that does not
                fit.
            DatasetError: data that cannot be used.
        """
        chosen = _WEIGHTS if weights is None else weights
        self._component_weights = checked_weights(chosen, _COMPONENTS)
        examples: Sequence[Example]
        given = tokenizer is not None
        self._training: Callable[[], CiderD]
        if dataset is None:
            if training_dataset is not None:
                raise ValueError("training_dataset goes with a dataset; the grammar has its own")
            size = DEFAULT_SIZES.get(split, 1) if size is None else size
            examples = _examples(split, size, data_seed)
            self._training = functools.partial(_grammar_ciderd, data_seed)
            tokenizer = grammar.tokenizer() if tokenizer is None else tokenizer
        else:
            examples = load_concepts(dataset, split=split)
            source = dataset if training_dataset is None else training_dataset
            self._training = functools.cache(lambda: _data_ciderd(source))
        self._referenced = all(example.references for example in examples)
        kinds = ("expert", "mixed", *_KINDS) if self._referenced else ("list",)
        self.qualities: tuple[str, ...] = ("random", *kinds)
        words = load_tokenizer("reviews" if tokenizer is None else tokenizer)
        if dataset is not None:
            check_words(examples, words, source=name_of(dataset), max_unknown=None)
        examples, columns = columns_for(
            examples, words, prompt_length, default=12, own=dataset is not None or given,
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

    @functools.cached_property
    def reward(self) -> RewardModel:
        """The weighted components; made when asked for, as another reward may be chosen.

        Raises:
            DatasetError: a component compares with references and an example has none.
        """
        wanted = [name for name in self._component_weights if name != "coverage"]
        if wanted and not self._referenced:
            bare = next(example for example in self.examples if not example.references)
            raise DatasetError(
                f"{bare.prompt!r} has no references, and the components "
                f"{', '.join(map(repr, wanted))} compare with them; pass weights={{'coverage': 1}} "
                "or another reward"
            )
        makers: dict[str, Callable[[], RewardModel]] = {
            "coverage": Coverage,
            "ciderd": self._training,
            "bleu": Bleu,
            "rouge": Rouge,
        }
        return WeightedSum(
            {name: (weight, makers[name]()) for name, weight in self._component_weights.items()}
        )

    def draw_qualities(self, quality: str, rngs: Sequence[np.random.Generator]) -> list[str]:
        """Return the kind of each sentence; "mixed" draws it at its share."""
        if quality != "mixed":
            return [quality] * len(rngs)
        kinds, shares = tuple(_KINDS), tuple(_KINDS.values())
        return [kinds[rng.choice(len(kinds), p=shares)] for rng in rngs]

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Write a sentence of the asked kind about each concept set."""
        drawn = zip(turns.example_indices.tolist(), qualities, turns.rngs, strict=True)
        texts = [self._write(self.example(index), kind, rng) for index, kind, rng in drawn]
        return [as_turn(text, self.tokenizer) for text in texts]

    def _write(self, example: Example, kind: str, rng: np.random.Generator) -> str:
        if kind == "list":
            return " ".join(example.metadata["concepts"]) + " ."
        if kind == "expert":
            return self._best(example.references)
        if kind == "mismatched":
            example = self.example(int(rng.integers(len(self))))
        text = example.references[int(rng.integers(len(example.references)))]
        words = text.split()
        return " ".join(words[: len(words) // 2]) if kind == "partial" else text

    def _best(self, references: tuple[str, ...]) -> str:
        scores = self._training().score_texts(references, [references] * len(references))
        return references[int(scores.argmax())]


@functools.lru_cache(maxsize=8)
def _examples(split: str, size: int, seed: int) -> tuple[Example, ...]:
    scenes = grammar.draw_scenes(split, size, seed)
    return tuple(
        Example(grammar.prompt(s.concepts), s.references, {"concepts": s.concepts}) for s in scenes
    )


@functools.lru_cache(maxsize=4)
def _grammar_ciderd(seed: int) -> CiderD:
    scenes = grammar.draw_scenes("train", DEFAULT_SIZES["train"], seed)
    return CiderD([scene.references for scene in scenes])


def _data_ciderd(dataset: Any) -> CiderD:
    return CiderD([example.references for example in load_concepts(dataset, split="train")])
