"""Say the words that were asked for: every token counts alone, so everything is a fraction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch, Example, Turns
from text_envs.tasks.shared.splits import SPLITS, split_contexts
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["WORDS", "TargetShare", "TargetWords"]

WORDS = (
    "apple", "bread", "chair", "dance", "eagle", "flute",
    "grape", "horse", "island", "jacket", "kettle", "lemon",
)  # fmt: skip


class TargetShare:
    """The share of the T columns that hold one of the example's target words."""

    name = "target words"

    def __init__(self, is_target: NDArray[np.bool_]) -> None:
        """Keep the table.

        Args:
            is_target: `(examples, vocab_size)` which ids each example asks for.
        """
        self.is_target = is_target

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`; columns that were not written count as misses."""
        hits = self.is_target[episodes.example_indices[:, None], episodes.response]  # (B, T)
        share: NDArray[np.float64] = hits.mean(axis=1)
        return share


class TargetWords(Task):
    """Fill a text with the words that the prompt names.

    ## Description
    The prompt names two of twelve words; every column that holds one of them pays. The smallest
    task in which what to write depends on the prompt: an agent that ignores it gets a sixth, one
    that reads it gets everything. Repeating one word is as good as mixing both, so the best
    reward says nothing about diversity, and a KL penalty shows.

    ## Action Space
    `Discrete(13)`: twelve words and the end of the text.

    ## Observation Space
    `Box(0, 15, (9,), int64)`: the begin token and the two words, then 6 columns for the text,
    right-padded.

    ## Rewards
    At the end the number of target words written, divided by the 6 columns: a text that stops
    early leaves columns unpaid. 1 is always possible.

    ## Starting State
    A pair of words, drawn uniformly from those of the split, 40 of all 66 in training.

    ## Episode End
    The end token (`finish_reason="stop"`) or the sixth word (`"length"`).

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `words=12`: size of the vocabulary, 4 to 12.
    `num_targets=2`: how many of them a prompt names. `targets=None`: a list of words to fix for
    all episodes; the prompt is then empty and every split the same. `max_tokens=6`: columns for
    the text. `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    A bandit with independent columns; reward for words from a list is a common first test of
    reinforcement learning on text and belongs to no paper in particular.
    """

    qualities = ("random", "mixed", "expert")

    def __init__(
        self,
        *,
        split: str = "train",
        words: int = 12,
        num_targets: int = 2,
        targets: Sequence[str] | None = None,
        max_tokens: int = 6,
    ) -> None:
        """Build the task.

        Args:
            split: which pairs of words.
            words: size of the vocabulary.
            num_targets: words a prompt names, fewer than `words`.
            targets: fixed target words in place of the prompt's.
            max_tokens: columns for the text.
        """
        if not isinstance(words, int) or not 4 <= words <= len(WORDS):
            raise ValueError(f"words must be an integer from 4 to {len(WORDS)}, got {words!r}")
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}.{suggest(str(split), SPLITS)}")
        tokenizer = WordTokenizer(WORDS[:words])
        if targets is None:
            if not isinstance(num_targets, int) or not 1 <= num_targets < words:
                raise ValueError(
                    f"num_targets must be an integer from 1 to {words - 1}, got {num_targets!r}"
                )
            every = np.array(list(combinations(range(words), num_targets)))
            chosen = every[split_contexts(len(every), split)]  # (P, num_targets)
            prompts = [" ".join(WORDS[word] for word in row) for row in chosen.tolist()]
        else:
            chosen = np.array([_checked(targets, tokenizer)])
            prompts = [""]
        self._targets = chosen
        is_target = np.zeros((len(chosen), tokenizer.vocab_size), dtype=bool)
        np.put_along_axis(is_target, chosen, True, axis=1)
        self.reward = TargetShare(is_target)
        super().__init__(
            [Example(prompt) for prompt in prompts],
            tokenizer=tokenizer,
            prompt_length=1 + (chosen.shape[1] if targets is None else 0),
            max_tokens=max_tokens,
        )

    @property
    def random_return(self) -> float:
        """The mean reward of uniformly random actions, the same for every prompt.

        Column t is reached with probability (W / A)^(t-1), W words among A = W + 1 actions, and
        then pays with probability K / A, for K targets.
        """
        actions = self.tokenizer.num_actions
        reached = ((actions - 1) / actions) ** np.arange(self.max_tokens)
        return float(reached.mean() * self._targets.shape[1] / actions)

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Say the target words in turn until the columns are full."""
        rows = self._targets[turns.example_indices].tolist()
        return [(row * self.max_tokens)[: self.max_tokens] for row in rows]


def _checked(targets: Sequence[str], tokenizer: WordTokenizer) -> list[int]:
    if isinstance(targets, str) or len(targets) == 0 or len(set(targets)) != len(targets):
        raise ValueError(f"targets must be a list of different words, got {targets!r}")
    for word in targets:
        if word not in tokenizer.words:
            raise ValueError(f"unknown target {word!r}.{suggest(str(word), tokenizer.words)}")
    return tokenizer.ids(targets)
