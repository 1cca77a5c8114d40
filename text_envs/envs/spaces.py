"""Spaces of token ids: a row of them is an observation, one of them an action."""

from __future__ import annotations

import warnings

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim

from text_envs.core.task import Task

__all__ = ["TokenBox", "TokenIdsWarning", "single_spaces"]

_FEW = 32  # ids that a small network still tells apart as numbers


class TokenIdsWarning(UserWarning):
    """A network is about to read token ids as numbers, of which 7 is nearer to 8 than to 70."""


class TokenBox(spaces.Box):
    """A `Box` of token ids: int64, and neither pixels nor magnitudes.

    It is a `Box` for every library. Whoever asks how wide it is when flattened means to read the
    ids as numbers, as the stock policies of Stable-Baselines3 do, and is told so.
    """


def single_spaces(task: Task) -> tuple[TokenBox, spaces.Discrete[np.int64]]:
    """Return the observation and the action space of one row of `task`."""
    length = task.prompt_length + task.max_tokens
    observation = TokenBox(0, task.tokenizer.vocab_size - 1, (length,), np.int64)
    return observation, spaces.Discrete(task.tokenizer.num_actions)


@flatdim.register(TokenBox)
def _flat_width(space: TokenBox) -> int:
    ids = int(np.max(space.high)) + 1
    if ids > _FEW:
        warnings.warn(
            f"a network is to read {ids} token ids as numbers, and will hardly learn. Name an "
            "embedding: policy_kwargs={'features_extractor_class': agents.IdEmbedding}, or a "
            "language model as the policy, agents.CausalLMPolicy",
            TokenIdsWarning,
            stacklevel=2,
        )
    return int(np.prod(space.shape))
