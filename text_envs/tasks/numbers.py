"""Numbers in increasing order: a toy whose every probability is a binomial coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.types import EpisodeBatch, Example, Turns
from text_envs.tasks.shared.splits import split_contexts
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["IncreasingNumbers", "increasing_share"]


def increasing_share(episodes: EpisodeBatch) -> NDArray[np.float64]:
    """Return the share of the columns that continue the increasing run from the prompt, `(B,)`.

    With s the prompt's number and w_1, w_2, ... the text, the reward is L / T: L is the largest
    number with s < w_1 < ... < w_L, T the number of columns.
    """
    first = episodes.prompt_length - 1
    ids = episodes.tokens[:, first:]  # (B, 1 + T), the prompt's number first; id n is number n
    written = np.ones(ids.shape, dtype=bool)
    written[:, 1:] = episodes.response != episodes.tokenizer.pad_id
    rises = written[:, 1:] & (ids[:, 1:] > ids[:, :-1])  # (B, T)
    run = np.logical_and.accumulate(rises, axis=1).sum(axis=1)
    share: NDArray[np.float64] = run / rises.shape[1]
    return share


class IncreasingNumbers(Task):
    """Continue a number by larger and larger ones.

    ## Description
    The prompt is a number, and each word should be larger than the one before. The first word
    that is not ends what counts. Many texts are best, greed for large numbers is not: who jumps
    too far runs out of numbers. How likely every reward is under uniformly random words, and so
    the exact optimum with and without a KL penalty to them, is known in closed form
    (`run_probabilities`, `log_partition`).

    ## Action Space
    `Discrete(31)`: the numbers 0 to 29, id n for n, and the end of the text.

    ## Observation Space
    `Box(0, 33, (12,), int64)`: the begin token and the number, then 10 columns for the text,
    right-padded.

    ## Rewards
    At the end L / 10, where L counts the words up to the first that is not larger than the one
    before it (the prompt's number before the first). 1 is always possible.

    ## Starting State
    A number from which ten larger ones exist, drawn uniformly from those of the split.

    ## Episode End
    The end token (`finish_reason="stop"`) or the tenth word (`"length"`).

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `numbers=30`: how many numbers exist; at least
    `max_tokens + 5`. `max_tokens=10`: columns for the text. `reward`, `reward_kwargs`,
    `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    Counting upwards is the smallest task of Ramamurthy et al., "Is reinforcement learning (not)
    for natural language processing?", 2022, arXiv 2210.01241; the prompt and the exact rule for
    the reward are this suite's own.
    """

    reward = staticmethod(increasing_share)
    qualities = ("random", "mixed", "expert")

    def __init__(self, *, split: str = "train", numbers: int = 30, max_tokens: int = 10) -> None:
        """Build the task.

        Args:
            split: which prompts.
            numbers: the vocabulary is 0 to `numbers - 1`.
            max_tokens: columns for the text.
        """
        least = max_tokens + 5
        if not isinstance(numbers, int) or numbers < least:
            raise ValueError(
                f"numbers must be an integer of at least max_tokens + 5 = {least}, so that every "
                f"prompt leaves room for a full run; got {numbers!r}"
            )
        self.starts = split_contexts(numbers - max_tokens, split)
        super().__init__(
            [Example(str(start)) for start in self.starts.tolist()],
            tokenizer=WordTokenizer([str(number) for number in range(numbers)]),
            prompt_length=2,
            max_tokens=max_tokens,
        )

    def run_probabilities(self, index: int) -> NDArray[np.float64]:
        """Return how likely each run length is when every action is drawn uniformly.

        Of the sequences of k actions, one for each choice of k larger numbers is increasing, so
        P(L >= k) = C(m, k) / A^k with m numbers larger than the start and A actions.

        Args:
            index: the example.

        Returns:
            P(L = k) for k = 0..max_tokens.
        """
        actions = self.tokenizer.num_actions
        larger = actions - 2 - int(self.starts[index])
        at_least = [comb(larger, k) / actions**k for k in range(self.max_tokens + 1)]
        return -np.diff([*at_least, 0.0])

    def log_partition(self, index: int, beta: float) -> float:
        """Return log E exp(reward / beta) under uniform actions: the soft value divided by beta.

        Args:
            index: the example.
            beta: coefficient of the KL penalty, positive.
        """
        share = np.arange(self.max_tokens + 1) / self.max_tokens
        with np.errstate(divide="ignore"):
            terms = np.log(self.run_probabilities(index)) + share / beta
        return float(np.logaddexp.reduce(terms))

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Count upwards from the prompt."""
        starts = self.starts[turns.example_indices].tolist()
        return [list(range(start + 1, start + 1 + self.max_tokens)) for start in starts]
