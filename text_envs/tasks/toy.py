"""The smallest task worth solving: three tokens, fifteen texts, every answer known exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.types import EpisodeBatch, Example, Turns
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["Toy", "ab_reward"]


def ab_reward(episodes: EpisodeBatch) -> NDArray[np.float64]:
    """Return 1 for a text that contains "a b", plus 1/2 for one that ends by itself, `(B,)`."""
    words = episodes.response  # (B, T), ids 0 = a, 1 = b
    contains = ((words[:, :-1] == 0) & (words[:, 1:] == 1)).any(axis=1)
    ends = np.array([reason == "stop" for reason in episodes.finish_reasons])
    rewards: NDArray[np.float64] = contains + 0.5 * ends
    return rewards


class Toy(Task):
    """Write "a b" and stop: a text of at most three tokens over {a, b, end}.

    ## Description
    An environment that a course can solve by hand: 7 states, 15 texts, one best text ("a b" and
    then the end). Everything an agent should converge to, with and without a KL penalty, can be
    computed exactly, which is what the tests of the agents do.

    ## Action Space
    `Discrete(3)`: `a`, `b`, end of text.

    ## Observation Space
    `Box(0, 5, (4,), int64)`: one prompt column that holds the begin token, three columns for
    the text.

    ## Rewards
    At the end: 1 if the text contains "a b", plus 0.5 if its last token is the end of text.

    ## Starting State
    The begin token alone; there is one example.

    ## Episode End
    The end token (`finish_reason="stop"`) or the third token (`"length"`).

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `max_tokens=3`: the longest text. `reward`, `reward_kwargs`, `action_mask`, `render_mode` as
    in every environment.

    ## Version History
    v0: first version.

    ## References
    The KL-regularised optimum of this instance is derived in Korbak et al., "RL with KL penalties
    is better viewed as Bayesian inference", 2022, arXiv 2205.11275, as a general formula.
    """

    reward = staticmethod(ab_reward)
    qualities = ("random", "mixed", "expert")

    def __init__(self, *, max_tokens: int = 3) -> None:
        """Build the task.

        Args:
            max_tokens: the longest text, end token included.
        """
        super().__init__(
            [Example(prompt="")],
            tokenizer=WordTokenizer(["a", "b"]),
            prompt_length=1,
            max_tokens=max_tokens,
        )

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Write the one best text: "a b" and the end."""
        return [[*self.tokenizer.encode("a b"), self.tokenizer.eos_id] for _ in qualities]
