"""Write what a language model finds likely: the reward that its own samples do not maximise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from text_envs.core.task import Task
from text_envs.episodes.errors import suggest
from text_envs.episodes.types import Turns
from text_envs.rewards.likelihood import Likelihood
from text_envs.tasks.reviews import COLUMNS, open_text
from text_envs.tasks.shared.data import load_examples
from text_envs.tasks.shared.lengths import as_questions, columns_for
from text_envs.tasks.shared.sources import name_of
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tasks.shared.unknown import MOST_UNKNOWN, check_words
from text_envs.tokens.assets import ASSETS
from text_envs.tokens.encoding import reference_tokens

__all__ = ["CONTINUATIONS", "LikelihoodContinuation"]

CONTINUATIONS = ASSETS / "likelihood" / "continuations.jsonl"


class LikelihoodContinuation(Task):
    """Continue an opening so that a frozen language model finds it likely.

    ## Description
    The reward is the mean log-likelihood of the agent's words under the frozen model itself. The
    likeliest texts are short loops of common words, far likelier than anything people write or
    the model samples, so an agent that maximises the reward leaves ordinary text behind: the
    first test of reward calibration from demonstrations. Every prompt comes with one: a text
    drawn from the bundled model at temperature 1, which stands in for a person's, as its
    likelihood is that of ordinary text. Needs the extra `agents` (torch and transformers).

    ## Action Space
    `Discrete(num_actions)`: the words that the model may write, 4001 for the bundled one, the end
    of the text among them.

    ## Observation Space
    `Box(0, vocab_size - 1, (32,), int64)`: 8 prompt columns, left-padded, and 24 columns for the
    continuation, right-padded.

    ## Rewards
    0 until the text ends, then (1 / |y|) sum_t log pi0(y_t | x, y_<t) in nats, at most 0. The end
    token counts as one of the |y| where the agent wrote it. pi0 gives no probability to what
    cannot be written (padding and special tokens).

    ## Starting State
    An opening drawn uniformly from the split; `reset(options={"index": 3})` chooses one.

    ## Episode End
    The end-of-text token or one of `stop` (`finish_reason="stop"`), 24 tokens (`"length"`) or a
    special token of a foreign tokenizer (`"forbidden"`); all terminate.

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `dataset=None`: openings of your own, a list, a file
    or a Hub name, with or without `references`. `prompt_column=None`, `reference_column=None`: the
    columns of prompt and reference; `field=None` is an older name of the first. `max_unknown=0.5`:
    words of your prompts that the tokenizer lacks are warned of, and refused above this share.
    `opening_words=None`: keep that many words of each text as the prompt, the rest is its
    demonstration. `model="reviews"`: any causal language model, a folder, a Hub name or an object.
    `tokenizer=None`: default the model's own. `device="cpu"`, `dtype="float64"`: how the model
    runs; in float64 the reward of a text does not depend on the batch. `prompt_length=None`,
    `max_tokens=24`: columns; the prompt has 8, or what your prompts need where that is more, which
    is said. `truncate_prompts=False`: shorten prompts to `prompt_length` (or 8) instead. Prompts
    may be lists of messages, and `chat=False` makes messages of texts too, for a tokenizer with a
    chat template. `stop=()`: texts, or one, with which a text ends; they stay in it. `reward`,
    `reward_kwargs`, `action_mask`, `render_mode` as in every environment. Demonstrations: "expert"
    writes the example's reference, or samples from the model where there is none; "greedy" takes
    the likeliest word each time, which pays more and reads worse. The examples' metadata holds
    `reviews_log_likelihood`, the reference's reward under the bundled model.

    ## Version History
    v0: first version.

    ## References
    First use case of Rita et al., "Countering reward over-optimization in LLM with
    demonstration-guided reinforcement learning", 2024, arXiv 2404.19409, where the model is a
    large one and the texts are an encyclopedia's.
    """

    qualities = ("random", "mixed", "expert", "greedy")

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
        model: Any = "reviews",
        tokenizer: Any = None,
        device: str = "cpu",
        dtype: str = "float64",
        prompt_length: int | None = None,
        max_tokens: int = 24,
        truncate_prompts: bool = False,
        chat: bool = False,
        stop: str | Sequence[str] = (),
    ) -> None:
        """Load openings and model.

        Args:
            split: which part of the data.
            dataset: prompts of your own, see `text_envs.tasks.shared.data.load_examples`.
            prompt_column: the key that holds the prompt.
            reference_column: the key that holds references.
            field: an older name of `prompt_column`.
            max_unknown: the share of words in your prompts that the tokenizer may lack.
            opening_words: cut each text after that many words.
            model: the frozen language model, see `text_envs.rewards.likelihood.Likelihood`.
            tokenizer: a tokenizer, or its name; default the model's.
            device: where the model runs.
            dtype: "float64" or "float32".
            prompt_length: columns for the prompt; None for 8, or for what your prompts need.
            max_tokens: columns for the continuation.
            truncate_prompts: keep the last tokens of a prompt that does not fit.
            chat: make a user's message of each prompt that is a text.
            stop: texts with which a text ends.
        """
        if dataset is None and split not in SPLITS:
            raise ValueError(f"unknown split {split!r}.{suggest(str(split), SPLITS)}")
        source = CONTINUATIONS if dataset is None else dataset
        examples = load_examples(
            source, split=split, prompt_column=prompt_column, reference_column=reference_column,
            field=field,
        )  # fmt: skip
        if opening_words is not None:
            examples = [open_text(example, opening_words) for example in examples]
        self.likelihood = Likelihood(model, tokenizer=tokenizer, device=device, dtype=dtype)
        examples = as_questions(examples) if chat else examples
        words = self.likelihood.tokenizer
        if dataset is not None:
            check_words(examples, words, source=name_of(dataset), max_unknown=max_unknown)
        fitting, columns = columns_for(
            examples, words, prompt_length, default=COLUMNS,
            own=dataset is not None or model != "reviews",
            truncate=truncate_prompts, source=name_of(source),
        )  # fmt: skip
        super().__init__(
            fitting,
            tokenizer=words,
            prompt_length=columns,
            max_tokens=max_tokens,
            truncate_prompts=truncate_prompts,
            stop=stop,
        )
        positions = self.likelihood.positions
        if positions is not None and columns + max_tokens > positions:
            raise ValueError(
                f"prompt_length + max_tokens = {columns + max_tokens}, but the model has "
                f"only {positions} positions"
            )
        self.reward = self.likelihood

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Write the reference ("expert"), or let the model write at temperature 1 or greedily."""
        texts: list[list[int]] = []
        for index, quality in zip(turns.example_indices.tolist(), qualities, strict=True):
            references = self.example(index).references if quality == "expert" else ()
            texts.append(
                reference_tokens(references[0], self.tokenizer, self.max_tokens)
                if references
                else []
            )
        missing = np.array([row for row, text in enumerate(texts) if not text], dtype=np.int64)
        if len(missing):
            sampled = self.likelihood.continue_prompts(
                turns.tokens[missing, : self.prompt_length],
                self.max_tokens,
                [turns.rngs[row] for row in missing.tolist()],
                greedy=np.array([qualities[row] == "greedy" for row in missing.tolist()]),
            )
            for row, text in zip(missing.tolist(), sampled, strict=True):
                texts[row] = text
        return texts
