"""Comments of a forum: a reply that readers like, without being rude."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from text_envs.core.task import Task
from text_envs.episodes.types import Example, Turns
from text_envs.tasks.comments import grammar
from text_envs.tasks.comments.data import as_example, load_comments
from text_envs.tasks.shared.lengths import columns_for
from text_envs.tasks.shared.procedural import DEFAULT_SIZES
from text_envs.tasks.shared.scripted import as_turn
from text_envs.tasks.shared.sources import name_of
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tasks.shared.unknown import check_words
from text_envs.tokens.loading import load_tokenizer

__all__ = ["Comments"]

# Tones of the behaviour data: most people are decent, and one reply in four is rude.
_TONE_SHARES = {"polite": 0.35, "bland": 0.2, "snarky": 0.2, "rude": 0.25}
# Votes that readers gave a reply, lowest and highest: a jibe is popular, rudeness is not.
_SCORES = {"polite": (1, 12), "bland": (-1, 3), "snarky": (1, 25), "rude": (-20, 1)}


class Comments(Task):
    """Reply to a comment without being rude.

    ## Description
    The agent reads a comment of a hobby forum and writes one reply. A classifier of toxicity
    pays: nothing for a decent reply, -5 for a borderline one, -10 for a rude one. In the
    behaviour data a third of the replies is polite and the others are bland, snide or rude, so
    imitation alone is not enough. Readers' votes are a second reward that pulls another way:
    they forgive a jibe and dislike a reply that says nothing, while silence is never toxic.

        gym.make("text_envs/Comments-v0", reward={"toxicity": 1, "upvotes": 1})

    ## Action Space
    `Discrete(214)`: every word and mark of the grammar, and the end of the text.

    ## Observation Space
    `Box(0, 216, (44,), int64)`: 24 prompt columns, left-padded, and 20 columns for the reply,
    right-padded.

    ## Rewards
    At the end -5 times the label 0 (decent), 1 (borderline) or 2 (rude). `reward="toxicity"`
    takes `reward_kwargs`: `{"backend": "classifier"}` asks the trained classifier of the package
    alt-profanity-check (extra `toxicity`) in place of the bundled linear model of its verdicts,
    whose agreement with it is in `text_envs/assets/comments/card.json` and which knows only the
    grammar's words; `{"noised": True}` turns borderline labels into 0 or 2 by a coin that depends
    on example, text and `"seed"` alone. `reward="upvotes"` pays +1 or -1 by a bundled model;
    `{"backend": "data"}` pays the recorded vote of a reply repeated word for word, else 0.

    ## Starting State
    A comment drawn uniformly from the split. No comment stands in two splits.

    ## Episode End
    The end-of-text token (`finish_reason="stop"`) or 20 tokens (`"length"`); both terminate.

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `size=None`: number of comments, default 2048 for
    training and 256 for the others. `data_seed=0`: of the grammar's draws. `dataset=None`: recorded
    comments as JSON, CSV, parquet, a Hub name or a list of mappings, with fields `parent`, `reply`
    (or `body`) and, optionally, `score` (or `upvotes`); or a Reddit dump with `id`, `parent_id`,
    `body`, `score`. `tokenizer=None`: any transformers tokenizer, or its name; by default the
    grammar's words, or "reviews" with a `dataset`, which cannot write every word.
    `prompt_length=None`, `max_tokens=20`: columns; the prompt has 24, or what your data needs where
    that is more, which is said. `stop=()`: texts, or one, with which a text ends.
    `truncate_prompts=False`: keep the end of a comment that does not fit instead of refusing it.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    Demonstrations have the qualities "random", "mixed" (the tones at their shares in the data),
    "expert" (polite) and each tone by name: "polite", "bland", "snarky", "rude". With a `dataset`
    "mixed" repeats a recorded reply and "expert" the one with the highest score.

    ## Version History
    v0: first version.

    ## References
    The task, with its graded, noised and vote rewards, is the third of Snell et al., "Offline RL
    for natural language generation with implicit language Q learning", 2022, arXiv 2206.11871,
    where comments come from Reddit. The classifier is that of the package alt-profanity-check.
    """

    reward = "toxicity"

    def __init__(
        self,
        *,
        split: str = "train",
        size: int | None = None,
        data_seed: int = 0,
        dataset: Any = None,
        tokenizer: Any = None,
        prompt_length: int | None = None,
        max_tokens: int = 20,
        truncate_prompts: bool = False,
        stop: str | Sequence[str] = (),
    ) -> None:
        """Draw the comments, or load them.

        Args:
            split: which part of the data.
            size: number of comments drawn from the grammar.
            data_seed: of the draws.
            dataset: recorded comments, see `text_envs.tasks.comments.data.load_comments`.
            tokenizer: a tokenizer, or its name.
            prompt_length: columns for the comment; None for 24, or for what your data needs.
            max_tokens: columns for the reply.
            truncate_prompts: keep the last tokens of a comment that does not fit.
            stop: texts with which a text ends.

        Raises:
            ValueError: an unknown split, a size below 1, or a comment that does not fit.
            DatasetError: data that cannot be used.
        """
        self.qualities: tuple[str, ...] = ("random", "mixed", "expert")
        examples: Sequence[Example]
        given = tokenizer is not None
        if dataset is None:
            size = DEFAULT_SIZES.get(split, 1) if size is None else size
            examples = _examples(split, size, data_seed)
            self.qualities += grammar.TONES
            tokenizer = grammar.tokenizer() if tokenizer is None else tokenizer
        else:
            examples = load_comments(dataset, split=split)
        words = load_tokenizer("reviews" if tokenizer is None else tokenizer)
        if dataset is not None:
            check_words(examples, words, source=name_of(dataset), max_unknown=None)
        examples, columns = columns_for(
            examples, words, prompt_length, default=24, own=dataset is not None or given,
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

    def draw_qualities(self, quality: str, rngs: Sequence[np.random.Generator]) -> list[str]:
        """Return the tone of each reply; "mixed" draws it at its share in the behaviour data."""
        if quality != "mixed" or "polite" not in self.qualities:
            return [quality] * len(rngs)
        tones, shares = tuple(_TONE_SHARES), tuple(_TONE_SHARES.values())
        return [tones[rng.choice(len(tones), p=shares)] for rng in rngs]

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Reply to each comment in the tone of its quality, or as the data has it."""
        replies = []
        drawn = zip(turns.example_indices.tolist(), qualities, turns.rngs, strict=True)
        for index, quality, rng in drawn:
            known = self.example(index).metadata
            if "topic" in known:
                tone = "polite" if quality == "expert" else quality
                text = grammar.draw_reply(known["topic"], tone, rng)
            else:
                chosen = 0 if quality == "expert" else int(rng.integers(len(known["replies"])))
                text = known["replies"][chosen][0]
            replies.append(as_turn(text, self.tokenizer))
        return replies


@functools.lru_cache(maxsize=8)
def _examples(split: str, size: int, seed: int) -> tuple[Example, ...]:
    """Return comments of the grammar, each with one scored reply of every tone."""
    examples = []
    for index, parent in enumerate(grammar.draw_parents(split, size, seed)):
        # A stream of its own beside the one that the comment was drawn from.
        rng = np.random.default_rng([seed, SPLITS.index(split), index, 1])
        replies = [
            (grammar.draw_reply(parent.thing, tone, rng), float(rng.integers(low, high + 1)))
            for tone, (low, high) in _SCORES.items()
        ]
        examples.append(as_example(parent.text, replies, topic=parent.thing))
    return tuple(examples)
