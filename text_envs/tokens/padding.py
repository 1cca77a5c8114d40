"""A padding token for tokenizers that come without one, as GPT-2's does."""

from __future__ import annotations

import copy
import logging
from typing import Any

__all__ = ["has_padding", "padding_fault", "with_padding"]

logger = logging.getLogger(__name__)

_PAD = "<|pad|>"


def has_padding(hf: Any) -> bool:
    """Return whether a tokenizer has a token that means absence and nothing else."""
    return not padding_fault(hf)


def padding_fault(hf: Any) -> str:
    """Return why a tokenizer's padding cannot mark absence; empty where it can."""
    pad = hf.pad_token_id
    if pad is None:
        return "has no padding token"
    uses = {"end": hf.eos_token_id, "begin": hf.bos_token_id, "unknown": hf.unk_token_id}
    shared = next((use for use, token in uses.items() if token == pad), None)
    return f"pads with its {shared} token ({pad})" if shared else ""


def with_padding(hf: Any) -> Any:
    """Return the tokenizer, or a copy with a padding token where it has none of its own.

    The new token has an id that no other has, so every other id keeps its meaning. The tokenizer
    itself is left as it is.

    Raises:
        ValueError: a new token would get the id of another one.
    """
    if has_padding(hf):
        return hf
    padded = copy.deepcopy(hf)
    taken, name, number = hf.get_vocab(), _PAD, 0
    while name in taken:
        name, number = f"<|pad_{number}|>", number + 1
    padded.add_special_tokens({"pad_token": name})
    if padded.pad_token_id in taken.values():  # a new token is numbered by their count
        raise ValueError(
            f"{type(hf).__name__} {padding_fault(hf)}, and none can be added: its "
            f"{len(taken)} tokens have ids up to {max(taken.values())}; accepted: ids without gaps"
        )
    logger.info("%s: padding token added as id %d", hf.name_or_path, padded.pad_token_id)
    return padded
