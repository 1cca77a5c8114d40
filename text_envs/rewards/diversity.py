r"""How little a text repeats itself, on token ids.

    distinct_n(y)   = |{n-grams of y}| / #(n-grams of y)     1 if nothing repeats
    repetition_n(y) = distinct_n(y) - 1                      0 if nothing repeats, above -1

An n-gram is n tokens that the agent wrote next to one another; it does not reach over a reply of
the environment. A text of fewer than n tokens has none, and counts as not repeating anything:
nobody should be paid for stopping early, so combine the reward with one that wants words.

Tokens are words with the built-in word tokenizers and pieces of words with a byte-pair tokenizer;
`unit="words"` reads words in any case. Measures over many texts are in `text_envs.rewards.metrics`.

Reference: J. Li et al., "A diversity-promoting objective function for neural conversation models",
2016, arXiv 1510.03055.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.words import response_words

__all__ = ["Distinct", "Repetition", "distinct_shares"]

_UNITS = ("tokens", "words")


def distinct_shares(ids: NDArray[np.int64], n: int, pad_id: int) -> NDArray[np.float64]:
    """Return the share of distinct n-grams of each row, `(B,)`; 1 for a row that has none.

    >>> distinct_shares(np.array([[4, 5, 4, 5], [4, 4, 4, 4]]), n=2, pad_id=0)
    array([0.66666667, 0.33333333])

    Args:
        ids: `(B, T)`; no n-gram reaches over `pad_id`.
        n: tokens of an n-gram.
        pad_id: marks columns without a token.
    """
    shares = np.ones(len(ids))
    width = ids.shape[1] - n + 1
    if width < 1:
        return shares
    size = int(ids.max()) + 1
    whole = np.ones((len(ids), width), dtype=bool)
    grams = np.zeros((len(ids), width), dtype=np.int64)
    kinds = 1  # grams lie below
    for back in range(n):
        if kinds * size >= 2**62:  # numbered anew, so that the product cannot overflow
            _, numbers = np.unique(grams, return_inverse=True)
            grams = numbers.reshape(grams.shape)
            kinds = int(grams.max()) + 1
        column = ids[:, back : back + width]
        whole &= column != pad_id
        grams = grams * size + column
        kinds *= size
    grams[~whole] = -1
    grams.sort(axis=1)  # equal ones side by side
    changes = np.diff(grams, axis=1, prepend=-1) != 0
    distinct = (changes & (grams >= 0)).sum(axis=1)
    total = whole.sum(axis=1)
    np.divide(distinct, total, out=shares, where=total > 0)
    return shares


class Distinct:
    """Share of a text's n-grams that are distinct, from near 0 to 1.

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make(
    ...     "text_envs/Reviews-v0", reward="distinct", reward_kwargs={"n": 2}, max_tokens=4
    ... )
    >>> observation, info = env.reset(seed=0)
    >>> for token in env.unwrapped.tokenizer.encode("good film good film"):
    ...     observation, reward, *_ = env.step(token)
    >>> round(float(reward), 6)  # (good film) twice, (film good) once: 2 of 3 are distinct
    0.666667
    """

    name = "distinct"

    def __init__(self, n: int = 2, *, unit: Literal["tokens", "words"] = "tokens") -> None:
        """Set what counts.

        Args:
            n: tokens of an n-gram.
            unit: "tokens", or "words" without punctuation.

        Raises:
            ValueError: an argument is not accepted.
        """
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"n must be an integer of at least 1, got {n!r}")
        if unit not in _UNITS:
            raise ValueError(f"unknown unit {unit!r}.{suggest(str(unit), _UNITS)}")
        self.n, self.unit = n, unit

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the shares, `(B,)`."""
        if self.unit == "tokens":
            return distinct_shares(episodes.response, self.n, episodes.tokenizer.pad_id)
        rows = response_words(episodes)
        number: dict[str, int] = {}
        ids = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int64)
        for row, words in zip(ids, rows, strict=True):
            row[: len(words)] = [number.setdefault(word, len(number) + 1) for word in words]
        return distinct_shares(ids, self.n, 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n}, unit={self.unit!r})"


class Repetition(Distinct):
    """Minus the share of a text's n-grams that repeat an earlier one: a penalty, at most 0.

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make(
    ...     "text_envs/Reviews-v0", reward={"sentiment": 1.0, "repetition": 0.5}, max_tokens=4
    ... )
    >>> observation, info = env.reset(seed=0)
    >>> for token in env.unwrapped.tokenizer.encode("good film good film"):
    ...     *_, info = env.step(token)
    >>> round(info["reward_terms"]["repetition"], 6)  # half of -1/3
    -0.166667
    """

    name = "repetition"

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the penalties, `(B,)`."""
        return super().__call__(episodes) - 1
