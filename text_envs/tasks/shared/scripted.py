"""Texts as turns of a scripted player."""

from __future__ import annotations

from text_envs.tokens.protocol import Tokenizer

__all__ = ["as_turn"]


def as_turn(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that write `text` and end the turn; what no action can write is left out."""
    ids = [i for i in tokenizer.encode(text) if i < tokenizer.num_actions]
    return [*(i for i in ids if not tokenizer.forbidden[i]), tokenizer.eos_id]
