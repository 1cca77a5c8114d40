"""`ReasoningTask`: a question in, a short answer out, right or wrong.

The families differ in how they draw questions (`items.Family`); everything else is here. Tasks
keep no state, so those with equal arguments share their examples within a process.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from text_envs.core.task import Task
from text_envs.episodes.errors import unexpected
from text_envs.episodes.types import Example, Turns
from text_envs.tasks.reasoning.bigbench import load_bigbench
from text_envs.tasks.reasoning.checker import ExactMatch
from text_envs.tasks.reasoning.items import SPLITS, Family, check_choice, check_range, draw_examples
from text_envs.tasks.shared.lengths import as_questions
from text_envs.tokens.builtin import WordTokenizer
from text_envs.tokens.encoding import prompt_ids
from text_envs.tokens.loading import load_tokenizer
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.stopping import as_stop

__all__ = ["ReasoningTask"]

_SIZES = {"train": 2000, "validation": 250, "test": 250}
_MOST_WORDS = 50_000  # of a data set's vocabulary
# Named in the hint for a misspelt argument beside the task's own.
_COMMON = (
    "split", "dataset", "tokenizer", "seed", "num_examples", "prompt_length", "max_tokens",
    "truncate_prompts", "chat", "stop", "reward", "reward_kwargs", "action_mask", "render_mode",
)  # fmt: skip


class ReasoningTask(Task):
    """Questions of one family; subclass it with a `family`, a `bigbench_name` and a card.

    Attributes:
        family: draws the questions; its fields are the difficulty arguments of the task.
        bigbench_name: what the public task of this kind is called.
    """

    family: ClassVar[type[Family]]
    bigbench_name: ClassVar[str] = ""
    qualities = ("random", "mixed", "expert", "wrong")

    def __init__(
        self,
        *,
        split: str = "train",
        dataset: Any = None,
        tokenizer: Any = None,
        seed: int = 0,
        num_examples: int | None = None,
        prompt_length: int | None = None,
        max_tokens: int | None = None,
        truncate_prompts: bool = False,
        chat: bool = False,
        stop: str | Sequence[str] = (),
        **difficulty: Any,
    ) -> None:
        """Draw the questions, or read them.

        Args:
            split: "train", "validation" or "test"; "all" too with `dataset`. No context, as
                apart from what is asked about it, stands in two splits.
            dataset: a `task.json` of BIG-bench, or what else `bigbench.load_bigbench` reads.
            tokenizer: default the closed vocabulary of the family, or the words of `dataset`.
            seed: of the questions.
            num_examples: default 2000 for training, 250 for the other splits.
            prompt_length: default the length of the longest possible prompt (with a `tokenizer`
                of your own: of the longest one in the split).
            max_tokens: default the length of the longest possible answer, end token included.
            truncate_prompts: keep the last tokens of a prompt that does not fit.
            chat: make a user's message of each question that is a text, for the chat template of
                `tokenizer`; those of a `dataset` may be messages already.
            stop: texts that end an answer, of which they are no part.
            **difficulty: the fields of the family.

        Raises:
            TypeError: an argument that the family does not have.
            ValueError: an argument out of range.
            DatasetError: `dataset` cannot be used.
        """
        self._check_names(difficulty, generated=dataset is None)
        chosen: Any = None if tokenizer is None else load_tokenizer(tokenizer)
        limits = _Limits(
            prompt_length, max_tokens, bool(truncate_prompts), bool(chat), as_stop(stop)
        )
        if dataset is not None:
            if num_examples is not None:
                raise ValueError("num_examples goes with generated questions, not with dataset")
            check_choice("split", split, (*SPLITS, "all"))
            read = load_bigbench(dataset, split=split, seed=seed, name=self.bigbench_name)
            if chat:
                read = as_questions(read[0]), as_questions(read[1])
            words = chosen or _fitting(read[1])
            # Measured on all splits, so that they share their spaces.
            table = _Table(read[0], words, limits, _measure(read[1], words))
        else:
            check_choice("split", split, SPLITS)
            check_range("seed", seed, 0, 2**63 - 1)
            count = _SIZES[split] if num_examples is None else num_examples
            check_range("num_examples", count, 1, 10**7)
            frozen: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in difficulty.items()
            }
            table = _generate(self.family(**frozen), split, int(seed), int(count), chosen, limits)
        vars(self).update(vars(table))

    @classmethod
    def _check_names(cls, difficulty: dict[str, Any], *, generated: bool) -> None:
        fields = [field.name for field in dataclasses.fields(cls.family)]
        for name in difficulty:
            if name not in fields:
                raise unexpected(cls.__name__, name, (*fields, *_COMMON))
        if difficulty and not generated:
            raise ValueError(
                f"{', '.join(sorted(difficulty))}: for generated questions only, not with dataset"
            )

    def baselines(self) -> dict[str, float]:
        """Return the accuracy of answers that do not read the question.

        `chance` answers uniformly: one of the question's options, or one of the answers that occur
        in the split where there are no options. `majority` always gives the answer that is right
        most often in the split.
        """
        golds = Counter(answer for example in self.examples for answer in set(example.references))
        chances = [
            len(example.references) / len(example.metadata["options"])
            if "options" in example.metadata
            else len(example.references) / len(golds)
            for example in self.examples
        ]
        return {
            "chance": float(np.mean(chances)),
            "majority": max(golds.values()) / len(self.examples),
        }

    def draw_qualities(self, quality: str, rngs: Sequence[np.random.Generator]) -> list[str]:
        """Return the quality of each episode; "mixed" is half expert, a quarter wrong or random."""
        if quality != "mixed":
            return [quality] * len(rngs)
        kinds = ("expert", "expert", "wrong", "random")
        return [kinds[int(rng.integers(len(kinds)))] for rng in rngs]

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Write an accepted answer and the end; or, for "wrong", a wrong one and the end."""
        answers = []
        for row, quality in enumerate(qualities):
            example = self.example(int(turns.example_indices[row]))
            given = example.references[:1] if quality == "expert" else example.metadata["wrong"]
            # Where every option is right there is no wrong answer but silence.
            text = given[int(turns.rngs[row].integers(len(given)))] if given else ""
            answers.append([*self.tokenizer.encode(text), self.tokenizer.eos_id])
        return answers


class _Limits(NamedTuple):
    """Arguments beside the questions and the words."""

    prompt_length: int | None
    max_tokens: int | None
    truncate: bool
    chat: bool
    stop: tuple[str, ...]


class _Table(Task):
    """What tasks with equal arguments share: examples, prompts and accepted answers as arrays."""

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        limits: _Limits,
        longest: tuple[int, int],
    ) -> None:
        """Encode everything once.

        Args:
            examples: of the split.
            tokenizer: of the task.
            limits: see `_Limits`.
            longest: what the first two limits are by default.
        """
        prompt_length, max_tokens = limits.prompt_length, limits.max_tokens
        super().__init__(
            examples,
            tokenizer=tokenizer,
            prompt_length=longest[0] if prompt_length is None else prompt_length,
            max_tokens=longest[1] if max_tokens is None else max_tokens,
            truncate_prompts=limits.truncate,
            stop=limits.stop,
        )
        answers = [example.references for example in examples]
        self.reward = ExactMatch(answers, tokenizer, self.max_tokens, self.stops)


@lru_cache(maxsize=48)
def _generate(
    family: Family,
    split: str,
    seed: int,
    count: int,
    tokenizer: Tokenizer | None,
    limits: _Limits,
) -> _Table:
    examples: Sequence[Example] = draw_examples(family, split, seed, count)
    examples = as_questions(examples) if limits.chat else examples
    if tokenizer is None:  # one more column for the begin and for the end token
        longest = family.columns() + 1, family.answer_columns() + 1
        return _Table(examples, family.tokenizer(), limits, longest)
    return _Table(examples, tokenizer, limits, _measure(examples, tokenizer))


def _fitting(examples: Sequence[Example]) -> Tokenizer:
    """Return the tokenizer of a data set: the words that occur in it, most frequent first."""
    return WordTokenizer.from_texts(
        (
            text
            for example in examples
            for text in (example.prompt, *example.references, *example.metadata["wrong"])
        ),
        max_words=_MOST_WORDS,
    )


def _measure(examples: Sequence[Example], tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the columns that the longest prompt and the longest answer with its end take."""
    prompts = max(len(prompt_ids(example.prompt, tokenizer)) for example in examples)
    answers = max(
        len(tokenizer.encode(answer))
        for example in examples
        for answer in (*example.references, *example.metadata["wrong"])
    )
    return prompts, max(answers, 1) + 1
