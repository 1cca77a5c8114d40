"""What an environment and a policy need to know about the tokens.

Token ids are the truth of an episode; text is decoded from them, never encoded again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tokenizer", "end_ids"]


@runtime_checkable
class Tokenizer(Protocol):
    """What an environment and a policy need to know about the tokens.

    Attributes:
        vocab_size: ids `0..vocab_size-1` occur in observations.
        num_actions: ids `0..num_actions-1` form the action space.
        pad_id: marks absence only; never an action and never equal to `eos_id`.
        eos_id: ends the text, or the turn; it is an action. A tokenizer with several such ids, as
            those of chat models, has all of them in an attribute `eos_ids`, see `end_ids`.
        bos_id: starts every prompt, or None where the tokenizer has no such token.
        unk_id: stands for an unknown word in prompts, or None; never an action.
        forbidden: boolean, shape `(num_actions,)`; True where an id may not be written.
    """

    vocab_size: int
    num_actions: int
    pad_id: int
    eos_id: int
    forbidden: NDArray[np.bool_]

    @property
    def bos_id(self) -> int | None:
        """See the attributes above."""
        ...

    @property
    def unk_id(self) -> int | None:
        """See the attributes above."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without begin or end."""
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of `text` as the start of a sequence; never empty."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; padding, begin and end are skipped."""
        ...


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return all ids that end a text, `eos_id` first; each is an action, and stands for itself."""
    return tuple(getattr(tokenizer, "eos_ids", None) or (tokenizer.eos_id,))
