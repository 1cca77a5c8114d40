"""Ids that a model must know: those that are shown, and those that a policy appends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from gymnasium import spaces

from text_envs.lm.checks import check_shown
from text_envs.lm.rows import add_rows, count_rows
from text_envs.lm.sharing import base_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["append_tokens", "highest_shown"]


def highest_shown(observation_space: spaces.Space[Any], pad_id: int) -> int:
    """Return the highest id of an observation apart from padding, which no model is fed."""
    highest = int(cast(spaces.Box, observation_space).high.max())
    return highest - 1 if highest == pad_id else highest


def append_tokens(
    lm: PreTrainedModel,
    count: int,
    observation_space: spaces.Space[Any],
    pad_id: int,
    *,
    frozen: bool = False,
) -> int:
    """Append `count` tokens to the vocabulary of a model; return the id of the first.

    Of a model that is frozen, or has adapters, the embedding stays and the rows are learnt aside.

    Raises:
        ValueError: the model lacks ids of the texts, which the appended tokens would take.
    """
    if isinstance(observation_space, spaces.Box):  # the policy refuses other spaces by itself
        check_shown(lm, highest_shown(observation_space, pad_id))
    first = max(count_rows(lm), pad_id + 1)  # padding is never fed: it may lie beyond the rows
    if frozen or base_of(lm) is not None:
        add_rows(lm, first, count)
        return first
    lm.resize_token_embeddings(first + count, mean_resizing=False)
    return first
