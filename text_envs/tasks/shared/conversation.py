"""Prompts and answers as messages, in the conversational formats of TRL's data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.tokens.chat import Chat, is_messages

__all__ = ["answers", "as_chat", "is_messages", "read"]

_ANSWERS = ("completion", "chosen")  # where the answer to a prompt of messages stands


def as_chat(value: Any, where: str) -> Chat:
    """Return messages as a prompt.

    Raises:
        DatasetError: they are none; the message says where.
    """
    try:
        return Chat(_plain(value))
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error


def answers(value: Any, name: str, where: str) -> tuple[str, ...]:
    """Return what the assistant says in messages that answer a prompt, as a reference.

    Raises:
        DatasetError: the last of them is not the assistant's.
    """
    last = as_chat(value, f"{where}: field {name!r}").messages[-1]
    if last["role"] != "assistant":
        raise DatasetError(
            f"{where}: field {name!r} must end with a message of the assistant, got one of "
            f"{last['role']!r}"
        )
    return (last["content"],)


def read(fields: Mapping[str, Any], key: str, where: str) -> tuple[Chat, tuple[str, ...]]:
    """Return the prompt of a row whose field `key` is no text, and what answers it.

    Args:
        fields: the row.
        key: of the prompt. In a field `messages`, the assistant's last message is the answer;
            elsewhere it is what the agent shall continue.
        where: the row stands.

    Raises:
        DatasetError: neither text nor messages, or only an answer.
    """
    value = fields[key]
    if isinstance(value, Mapping) or not hasattr(value, "__len__"):
        raise DatasetError(
            f"{where}: field {key!r} must be a text, got {value!r}; accepted too: a list of "
            "messages"
        )
    chat = as_chat(value, f"{where}: field {key!r}")
    answer = next((name for name in _ANSWERS if fields.get(name) is not None), None)
    if key == "messages" and chat.messages[-1]["role"] == "assistant":
        if len(chat.messages) == 1:
            raise DatasetError(f"{where}: field {key!r} has an answer and no question")
        return Chat(chat.messages[:-1]), (chat.messages[-1]["content"],)
    if answer is None:
        return chat, ()
    given = _plain(fields[answer])
    return chat, (given,) if isinstance(given, str) else answers(given, answer, where)


def _plain(value: Any) -> Any:
    """Return the list behind an array, as tables hold them."""
    return value.tolist() if hasattr(value, "tolist") else value
