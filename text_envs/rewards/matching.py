"""Texts that must match: a reference word for word, or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.words import references

__all__ = ["ExactMatch", "Regex", "normalise"]

_STEPS = ("case", "punctuation", "articles", "space")
_MODES = ("any", "count", "full")
_SOURCES = ("text", "transcript")
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.IGNORECASE)
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def normalise(text: str, steps: Sequence[str] = _STEPS) -> str:
    """Return a text without the differences that do not count.

    >>> normalise("The Eiffel-Tower , Paris .")
    'eiffel tower paris'

    Args:
        text: any text.
        steps: which differences, of "case", "punctuation" (every mark becomes a space), "articles"
            (a, an, the) and "space" (how much of it).
    """
    if "case" in steps:
        text = text.casefold()
    if "punctuation" in steps:
        text = _PUNCTUATION.sub(" ", text)
    if "articles" in steps:
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split()) if "space" in steps else text


class ExactMatch:
    """1 for a text that equals one of its example's references, 0 for any other.

    Both are normalised first. With `extract`, only the part of the text that the pattern finds is
    compared, for tasks whose answer ends a longer text; a text without it gets 0.

    >>> from text_envs.rewards import resolve
    >>> resolve("exact_match").score_texts(["Paris .", "in Paris"], [["paris"], ["paris"]])
    array([1., 0.])
    >>> resolve("exact_match", extract=r"answer: (.*)").score_texts(
    ...     ["2 and 2 make 4, answer: 4"], [["4"]]
    ... )
    array([1.])
    """

    name = "exact_match"

    def __init__(self, normalise: Sequence[str] = _STEPS, *, extract: str | None = None) -> None:
        """Set what does not count.

        Args:
            normalise: differences to overlook, see `normalise`; `()` for none.
            extract: regular expression; what its first group (or all of it, if it has none) finds
                last is the answer.

        Raises:
            ValueError: an unknown step, or a pattern that is none.
        """
        for step in normalise:
            if step not in _STEPS:
                raise ValueError(f"unknown step {step!r}.{suggest(str(step), _STEPS)}")
        self.steps = tuple(normalise)
        self.extract = None if extract is None else _compile(extract)

    def score_texts(
        self, texts: Sequence[str], of_each: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        """Return 1 or 0 for each text with its own references, `(B,)`."""
        pairs = zip(texts, of_each, strict=True)
        return np.array([float(self._matches(text, wanted)) for text, wanted in pairs])

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return 1 or 0 for each episode, `(B,)`."""
        return self.score_texts(episodes.texts, references(episodes))

    def _matches(self, text: str, wanted: Sequence[str]) -> bool:
        if self.extract is not None:
            found = list(self.extract.finditer(text))
            if not found:
                return False
            text = found[-1].group(1 if self.extract.groups else 0) or ""
        answer = normalise(text, self.steps)
        return any(answer == normalise(reference, self.steps) for reference in wanted)

    def __repr__(self) -> str:
        return f"ExactMatch({self.steps!r})"


class Regex:
    """What a regular expression finds in a text.

    `mode="any"` pays 1 if it is found anywhere, `"full"` if it is the whole text, `"count"` how
    often it is found, up to `most`. A pattern with nested repetition, such as `(a+)+b`, can take
    for ever on a text made for it, and an agent makes many texts.

    >>> from text_envs.rewards import resolve
    >>> resolve("regex", pattern=r"colou?r").score_texts(["a color film", "grey"])
    array([1., 0.])
    >>> resolve("regex", pattern=r"!", mode="count", most=3).score_texts(["wow!", "wow!!!!!"])
    array([1., 3.])
    """

    name = "regex"

    def __init__(
        self,
        pattern: str,
        mode: Literal["any", "full", "count"] = "any",
        *,
        most: int | None = None,
        source: Literal["text", "transcript"] = "text",
    ) -> None:
        """Set what to look for.

        Args:
            pattern: of Python's `re`; `(?i)` in front ignores case.
            mode: "any", "full" or "count".
            most: largest count paid for; None for no limit.
            source: "text" looks at what the agent wrote, "transcript" also at the environment's
                replies.

        Raises:
            ValueError: an argument is not accepted.
        """
        for value, accepted in ((mode, _MODES), (source, _SOURCES)):
            if value not in accepted:
                raise ValueError(f"unknown {value!r}.{suggest(str(value), accepted)}")
        if most is not None and (mode != "count" or most < 1):
            raise ValueError(f"most is a positive limit for mode='count', got {most!r}, {mode!r}")
        self.pattern = _compile(pattern)
        self.mode, self.most, self.source = mode, most, source

    def score_texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the reward of each text, `(B,)`."""
        if self.mode == "count":
            counts = [sum(1 for _ in self.pattern.finditer(text)) for text in texts]
            return np.array([min(n, self.most or n) for n in counts], dtype=np.float64)
        find = self.pattern.search if self.mode == "any" else self.pattern.fullmatch
        return np.array([float(find(text) is not None) for text in texts])

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the rewards, `(B,)`."""
        return self.score_texts(episodes.texts if self.source == "text" else episodes.transcripts)

    def __repr__(self) -> str:
        return f"Regex({self.pattern.pattern!r}, {self.mode!r})"


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
