"""Stop strings: a turn ends when what it says ends with one of them.

Tokens and strings do not end together. A token completes a stop string if the string ends within
the text that the token adds, wherever it began: what the token adds behind the string stays, as the
string itself does, because tokens are the truth of an episode. `generate` of transformers stops
there too.

Nothing is decoded for most tokens. A table tells, for each token, whether the text of it could
complete a stop string at all; only where the last token of a row is one of these, the last few
tokens of the row are decoded, twice: with it and without.
"""

from __future__ import annotations

import functools
import os.path
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from text_envs.tokens.protocol import Tokenizer

__all__ = ["StopStrings", "as_stop", "stop_strings"]

_LOST = "\N{REPLACEMENT CHARACTER}"  # what tokenizers make of bytes that are no character


class StopStrings:
    """The stop strings of one tokenizer.

    Attributes:
        strings: the stop strings.
        may_complete: bool `(num_actions,)`, whether a token could complete one of them.
        longest: characters of the longest token.

    Args:
        tokenizer: decodes the tokens.
        strings: what ends a turn, none of them empty.

    >>> from text_envs.tokens import CharTokenizer
    >>> stops = StopStrings(CharTokenizer("ab."), ["b."])
    >>> tokens = np.array([[0, 1, 2], [1, 1, 2], [0, 0, 2]])
    >>> stops.complete(tokens, np.array([0, 2, 0]), np.array([3, 3, 3])).tolist()
    [True, False, False]
    """

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        # Each token of what completes a string adds a byte at least; one more for what the first
        # token loses where it begins a text, and one for a character it may be within.
        self._window = max(len(string.encode()) for string in self.strings) + 2
        ends = tuple({string[-k:] for string in self.strings for k in range(1, len(string) + 1)})
        may = np.zeros(tokenizer.num_actions, dtype=bool)
        self.longest = 0
        for token in np.flatnonzero(~np.asarray(tokenizer.forbidden)).tolist():
            text = tokenizer.decode([token])
            self.longest = max(self.longest, len(text) + 1)
            # In front of it stands a space that some tokenizers drop from what they decode alone.
            spaced = " " + text
            may[token] = (
                text.startswith(ends)
                or spaced.startswith(ends)
                or _LOST in text
                or any(string in spaced for string in self.strings)
            )
        may.flags.writeable = False
        self.may_complete: NDArray[np.bool_] = may

    def __deepcopy__(self, memo: dict[int, Any]) -> StopStrings:
        return self  # never changed

    def complete(
        self,
        tokens: NDArray[np.int64],
        start: NDArray[np.int64],
        stop: NDArray[np.int64],
        rows: NDArray[np.int64] | None = None,
    ) -> NDArray[np.bool_]:
        """Return whether the last token of each turn has completed a stop string.

        Args:
            tokens: `(N, L)` int64.
            start: `(N,)` the first column of each turn.
            stop: `(N,)` one past the last token of each turn.
            rows: `(B,)` which of the N are asked about; None for all.

        Returns:
            bool `(B,)`.
        """
        rows = np.arange(len(tokens)) if rows is None else rows
        last = tokens[rows, stop[rows] - 1]  # (B,)
        found = (last < len(self.may_complete)) & (stop[rows] > start[rows])
        found[found] = self.may_complete[last[found]]
        for i in np.flatnonzero(found).tolist():
            row = int(rows[i])
            end = int(stop[row])
            found[i] = self.ends(tokens[row, max(int(start[row]), end - self._window) : end])
        return found

    def ends(self, tokens: NDArray[np.int64]) -> bool:
        """Return whether the last of `tokens` `(n,)` completes a stop string."""
        ids = tokens.tolist()
        text, before = self.tokenizer.decode(ids), self.tokenizer.decode(ids[:-1])
        known = len(os.path.commonprefix((before, text)))
        return any(
            text.find(string, max(0, known - len(string) + 1)) >= 0 for string in self.strings
        )

    def cut(self, text: str) -> str:
        """Return a text without the first stop string in it and what follows."""
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(places)] if places else text

    def __repr__(self) -> str:
        return f"StopStrings({', '.join(map(repr, self.strings))})"


def as_stop(stop: Any) -> tuple[str, ...]:
    """Return stop strings as a tuple; one string stands for itself.

    Raises:
        TypeError: it is no string and no sequence of strings.
        ValueError: one is empty.
    """
    listed = (stop,) if isinstance(stop, str) else stop
    if not isinstance(listed, Sequence) or isinstance(listed, bytes):
        raise TypeError(f"stop must be a text or a list of texts, got {stop!r}")
    for string in listed:
        if not isinstance(string, str):
            raise TypeError(f"stop must be a text or a list of texts, got {string!r} in {stop!r}")
        if not string:
            raise ValueError(f"stop holds an empty text, which every text ends with: {stop!r}")
    return tuple(dict.fromkeys(listed))


def stop_strings(tokenizer: Tokenizer, stop: Any, max_tokens: int) -> StopStrings | None:
    """Return what finds stop strings in texts of up to `max_tokens`; None if there are none.

    Args:
        tokenizer: of the texts.
        stop: a text, or several.
        max_tokens: the longest that a text may be.

    Raises:
        TypeError: they are no texts.
        ValueError: one is empty, longer than a text can be, or of characters that no token has.
    """
    strings = as_stop(stop)
    if not strings:
        return None
    found = _make(tokenizer, strings)
    for string in strings:
        needed = len(tokenizer.encode(string))
        if needed > max_tokens or len(string) > found.longest * max_tokens:
            raise ValueError(
                f"stop string {string!r} has {needed} tokens, and a text has at most "
                f"{max_tokens}, so that it never ends; accepted: a shorter one, or more max_tokens"
            )
        if not (found if len(strings) == 1 else _make(tokenizer, (string,))).may_complete.any():
            raise ValueError(
                f"stop string {string!r} ends with what no token of {tokenizer!r} writes; accepted:"
                " a text in its words"
            )
    return found


def _make(tokenizer: Tokenizer, strings: tuple[str, ...]) -> StopStrings:
    try:
        return _made(cast(Any, tokenizer), strings)
    except TypeError:  # a tokenizer that cannot be hashed
        return StopStrings(tokenizer, strings)


@functools.lru_cache(maxsize=16)
def _made(tokenizer: Any, strings: tuple[str, ...]) -> StopStrings:
    return StopStrings(tokenizer, strings)
