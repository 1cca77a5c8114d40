"""Exceptions of the suite, and the hint that an unknown name gets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from text_envs.episodes.types import EpisodeBatch

__all__ = ["DatasetError", "GuideError", "RewardModelError", "suggest", "unexpected"]


class RewardModelError(RuntimeError):
    """A reward model raised, or returned something that is not a finite reward per episode.

    The environment is left as it was before the step, so the step can be repeated with another
    reward model; the episodes that could not be scored travel with the error.

    Attributes:
        episodes: the finished episodes that were being scored.
    """

    def __init__(self, message: str, episodes: EpisodeBatch) -> None:
        super().__init__(message)
        self.episodes = episodes


class GuideError(RuntimeError):
    """A guide does not fit the task, raised, or wrote something that cannot be used.

    Attributes:
        guide: its name.
        row: which of the rows it was asked about, or None.
        prompt: the text of that row so far, or None.
        received: what it returned for all rows, so that nothing paid for is lost, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        guide: str,
        row: int | None = None,
        prompt: str | None = None,
        received: Any = None,
    ) -> None:
        super().__init__(message)
        self.guide, self.row, self.prompt, self.received = guide, row, prompt, received


class DatasetError(ValueError):
    """A data file that cannot be used; the message names the file and, where known, the line."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return the tail of an error message: the nearest match, then everything accepted.

    Args:
        name: what was received.
        choices: what is accepted.
    """
    accepted = sorted(choices)
    close = difflib.get_close_matches(name, accepted, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Accepted: {', '.join(map(repr, accepted))}."


def unexpected(label: str, name: str, accepted: Iterable[str]) -> TypeError:
    """Return the error for an argument that nobody takes, in the words that Python itself uses.

    Gymnasium and TorchRL look for "got an unexpected keyword argument 'name'" to learn that an
    environment lacks an argument which they only tried.

    Args:
        label: of what was called.
        name: of the argument.
        accepted: the names that it takes.
    """
    return TypeError(
        f"{label}() got an unexpected keyword argument {name!r}: it takes no argument {name!r}."
        f"{suggest(name, accepted)}"
    )
