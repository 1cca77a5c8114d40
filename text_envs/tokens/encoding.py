"""Texts as the columns of an observation: prompts padded on the left, references as actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from text_envs.tokens.chat import Chat
from text_envs.tokens.protocol import Tokenizer

__all__ = ["encode_prompts", "prompt_ids", "reference_tokens"]


def prompt_ids(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that a prompt begins a sequence with, never none.

    Args:
        prompt: a text, which the tokenizer puts its begin token before; or a `Chat`, whose template
            writes all that there is to be.
        tokenizer: encodes it.

    Raises:
        ValueError: messages for a tokenizer without a chat template.
    """
    if not isinstance(prompt, Chat):
        return tokenizer.encode_prompt(prompt)
    encode_chat = getattr(tokenizer, "encode_chat", None)
    if encode_chat is None:
        raise ValueError(
            f"a prompt of messages needs a chat template, and {tokenizer!r} has none; accepted: "
            "tokenizer= of a chat model, or prompts as texts"
        )
    return list(encode_chat(prompt.messages))


def encode_prompts(
    prompts: Sequence[str], tokenizer: Tokenizer, prompt_length: int, *, truncate: bool = False
) -> NDArray[np.int64]:
    """Return the prompts left-padded to `(len(prompts), prompt_length)`.

    Args:
        prompts: the texts.
        tokenizer: its `encode_prompt` decides what a prompt starts with.
        prompt_length: columns of the result.
        truncate: keep the begin token and the last words of a longer prompt.

    Raises:
        ValueError: a prompt has more tokens than `prompt_length` and `truncate` is False; the
            message names the prompt and by how much.
    """
    encoded = np.full((len(prompts), prompt_length), tokenizer.pad_id, dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids = prompt_ids(prompt, tokenizer)
        if len(ids) > prompt_length:
            if not truncate:
                raise ValueError(
                    f"prompt {row} has {len(ids)} tokens, {len(ids) - prompt_length} more than "
                    f"prompt_length={prompt_length}: {_shorten(prompt)!r}. Raise prompt_length, "
                    "or pass truncate_prompts=True to keep the last tokens."
                )
            head = ids[:1] if ids[0] == tokenizer.bos_id else []
            ids = head + ids[len(ids) - prompt_length + len(head) :]
        encoded[row, prompt_length - len(ids) :] = ids
    return encoded


def reference_tokens(text: str, tokenizer: Tokenizer, max_tokens: int) -> list[int]:
    """Return a reference as actions: what cannot be written is left out, then the end.

    Args:
        text: the reference.
        tokenizer: encodes it.
        max_tokens: a longer one is cut and does not end by itself.
    """
    actions, forbidden = tokenizer.num_actions, tokenizer.forbidden
    ids = [token for token in tokenizer.encode(text) if token < actions and not forbidden[token]]
    return [*ids, tokenizer.eos_id][:max_tokens]


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
