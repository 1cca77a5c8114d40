"""Prompts as messages, `[{"role": "user", "content": "..."}]`, in a tokenizer's chat template.

A template is a file of the tokenizer's. transformers runs it in a sandbox that has no access to
Python; nothing else of a tokenizer is run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Chat", "as_messages", "encode", "is_messages"]


class Chat(str):
    r"""A prompt of messages; as a string, what they say, a line each.

    Attributes:
        messages: mappings with `role` and `content`.

    Args:
        messages: see `as_messages`.

    Raises:
        ValueError: they are no messages.

    >>> Chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    'Be brief.\nWhy?'
    """

    messages: tuple[dict[str, Any], ...]

    def __new__(cls, messages: Any) -> Chat:
        """Check the messages."""
        checked = as_messages(messages)
        made = super().__new__(cls, "\n".join(message["content"] for message in checked))
        made.messages = checked
        return made

    def extended(self, text: str) -> Chat:
        """Return the same messages with more said at the end of the last one."""
        last = self.messages[-1]
        return Chat([*self.messages[:-1], {**last, "content": last["content"] + text}])

    def __getnewargs__(self) -> tuple[Any]:
        """Return what a copy is made of."""
        return (self.messages,)


def is_messages(value: Any) -> bool:
    """Return whether a value is meant as messages: mappings that have roles, in a sequence."""
    if isinstance(value, Mapping | str) or not hasattr(value, "__getitem__"):
        return False
    if not hasattr(value, "__len__") or not len(value):
        return False
    return all(isinstance(message, Mapping) and "role" in message for message in value)


def as_messages(value: Any) -> tuple[dict[str, Any], ...]:
    """Return messages as plain mappings.

    Args:
        value: a sequence of mappings, each with a text as `role` and one as `content`.

    Raises:
        ValueError: there is none, or one is something else; it is named.
    """
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        raise ValueError(f"messages must be a list of mappings, got {_short(value)}")
    if not len(value):
        raise ValueError("messages must be a list of mappings, got an empty one")
    found = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} must be a mapping, got {_short(message)}")
        for name in ("role", "content"):
            if not isinstance(message.get(name), str):
                raise ValueError(
                    f"message {number} must have a text as {name!r}, got {_short(message)}"
                )
        if not message["role"]:
            raise ValueError(f"message {number} has an empty role: {_short(message)}")
        # Tables put None where a message lacks a key of others.
        found.append({key: part for key, part in message.items() if part is not None})
    return tuple(found)


def encode(hf: Any, messages: Sequence[Mapping[str, Any]], pad_id: int) -> list[int]:
    """Return the ids of messages, see `HFTokenizer.encode_chat`."""
    checked = [dict(message) for message in as_messages(messages)]
    name = type(hf).__name__
    if not getattr(hf, "chat_template", None):
        raise ValueError(
            f"a prompt of messages needs a chat template, and the tokenizer {name} "
            f"({getattr(hf, 'name_or_path', '') or 'without a name'}) has none; accepted: the "
            "tokenizer of a chat model, tokenizer.chat_template = a template, or prompts as texts"
        )
    unfinished = checked[-1]["role"] == "assistant"
    try:
        text = hf.apply_chat_template(
            checked,
            tokenize=False,
            add_generation_prompt=not unfinished,
            continue_final_message=unfinished,
        )
    except Exception as error:  # of the template: a role it does not know, an order it refuses
        roles = [message["role"] for message in checked]
        raise ValueError(
            f"the chat template of {name} refuses messages of the roles {roles}: {error}"
        ) from error
    ids = [int(i) for i in hf.encode(text, add_special_tokens=False)]
    if pad_id in ids:
        raise ValueError(
            f"the chat template of {name} writes its padding, {hf.convert_ids_to_tokens(pad_id)!r},"
            " which marks absence here; accepted: another padding token"
        )
    if not ids:
        raise ValueError(f"the chat template of {name} makes nothing of {_short(checked)}")
    return ids


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
