"""A learned preference between summaries of a post, simple enough to be over-optimised.

Idea: a score linear in nine features of (post, summary), fitted so that the better of two
summaries tends to have the higher score (Bradley-Terry):
    s(x, y) = sum_f weight[f] * feature_f(x, y) - shift,    P(y over z) = sigmoid(s(x, y) - s(x, z))
The shift makes good summaries score 0 on average. No feature reads a sentence: words, pairs of
words and lengths are counted, so that a text can score above 0 and be no summary at all.

| feature | what it counts |
|---|---|
| overlap | share of the summary's words that the post has |
| coverage | share of the post's words that the summary has, rare ones counting more |
| novelty | words that the post lacks, rare ones counting more, over 10 |
| repetition | share of the summary's words that repeat an earlier one |
| length | words, over 10 |
| length_squared | its square |
| phrases | share of the summary's pairs of neighbours that the post has |
| finished | 1 if the last token ends a sentence |
| question | 1 if there is a question mark |
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.words import count_words, weigh
from text_envs.tokens.assets import ASSETS
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["FEATURES", "Preference", "Vocabulary", "summary_features"]

_FILE = ASSETS / "summaries" / "preference.json"
FEATURES = (
    "overlap",
    "coverage",
    "novelty",
    "repetition",
    "length",
    "length_squared",
    "phrases",
    "finished",
    "question",
)
_ASK = re.compile(r"\s*tl\s*;?\s*dr\s*:?\s*$", re.IGNORECASE)
_ASK_WORDS = ("tl", ";", "dr", ":")
_ENDS = (".", "?", "!")


@dataclass(frozen=True)
class Vocabulary:
    """What the features know of the ids below V; every other id is padding.

    Attributes:
        rarity: `(V,)` log inverse document frequency of words, 0 for marks.
        is_word: `(V,)` False for punctuation.
        ends: ids that end a sentence.
        question: id of the question mark, or V.
    """

    rarity: NDArray[np.float64]
    is_word: NDArray[np.bool_]
    ends: tuple[int, ...]
    question: int

    @staticmethod
    def of(words: Sequence[str], rarities: Mapping[str, float]) -> Vocabulary:
        """Return the vocabulary of a list of words; one without a rarity is as rare as any."""
        rarest = max(rarities.values(), default=1.0)
        is_word = np.array([word[0].isalnum() for word in words], dtype=bool)
        rarity = np.array([rarities.get(word, rarest) for word in words], dtype=np.float64)
        ids = {word: index for index, word in enumerate(words)}
        ends = tuple(ids[mark] for mark in _ENDS if mark in ids)
        return Vocabulary(rarity * is_word, is_word, ends, ids.get("?", len(words)))


def summary_features(
    posts: NDArray[np.int64], summaries: NDArray[np.int64], vocabulary: Vocabulary
) -> NDArray[np.float64]:
    """Return the features of each summary, `(B, 9)` in the order of `FEATURES`.

    Args:
        posts: `(B, P)` ids; ids of V and above are padding, anywhere.
        summaries: `(B, T)` ids, padded on the right.
        vocabulary: what the ids mean.
    """
    size = len(vocabulary.rarity)
    counts = count_words(summaries, size) * vocabulary.is_word  # (B, V)
    in_post = (count_words(posts, size) > 0) & vocabulary.is_word
    words = counts.sum(axis=1)
    some = np.maximum(words, 1)
    said = counts > 0
    asked = weigh(in_post, vocabulary.rarity)
    covered = weigh(in_post & said, vocabulary.rarity)
    tokens = (summaries < size).sum(axis=1)  # (B,)
    last = np.take_along_axis(summaries, np.maximum(tokens - 1, 0)[:, None], axis=1)[:, 0]
    length = words / 10
    columns = (
        (counts * in_post).sum(axis=1) / some,
        covered / np.where(asked > 0, asked, 1.0),
        weigh(said & ~in_post, vocabulary.rarity) / 10,
        1 - said.sum(axis=1) / some - (words == 0),
        length,
        length**2,
        _shared_pairs(posts, summaries, size),
        (tokens > 0) & np.isin(last, vocabulary.ends),
        (summaries == vocabulary.question).any(axis=1),
    )
    return np.stack(columns, axis=1).astype(np.float64)


def _shared_pairs(
    posts: NDArray[np.int64], summaries: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    """Return the share of each summary's neighbouring pairs that stand in its post, `(B,)`."""

    def pairs(ids: NDArray[np.int64], missing: int) -> NDArray[np.int64]:
        real = (ids[:, :-1] < size) & (ids[:, 1:] < size)
        return np.where(real, ids[:, :-1] * size + ids[:, 1:], missing)

    theirs, ours = pairs(posts, -1), pairs(summaries, -2)  # (B, P - 1), (B, T - 1)
    found = (ours[:, :, None] == theirs[:, None, :]).any(axis=2).sum(axis=1)
    shares: NDArray[np.float64] = found / np.maximum((ours >= 0).sum(axis=1), 1)
    return shares


@functools.cache
def _bundled() -> tuple[dict[str, float], WordTokenizer, Vocabulary, NDArray[np.float64], float]:
    """Return rarities, tokenizer, vocabulary, weights in the order of `FEATURES`, and shift."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    rarities: dict[str, float] = content["words"]
    tokenizer = WordTokenizer(list(rarities))
    weights = np.array([content["weights"][name] for name in FEATURES])
    return rarities, tokenizer, Vocabulary.of(tokenizer.words, rarities), weights, content["shift"]


class Preference:
    """Log-odds by which the bundled model prefers a summary to a good one; the post is the prompt.

    With the words of `Summarization-v0` it works on ids; with any other tokenizer on the words
    of the texts, unknown ones counting as rare.

    >>> post = "my dog ran away in the park and a neighbour brought him back ."
    >>> good, bad = Preference().score_texts([post] * 2, ["my dog ran away in the park .", "?"])
    >>> bool(good > bad)
    True
    """

    name = "preference"

    def __init__(self) -> None:
        """Load the weights."""
        self._rarities, self.tokenizer, self._vocabulary, self.weights, self.shift = _bundled()
        self._ask = [i for word in _ASK_WORDS for i in self.tokenizer.encode(word)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Preference:
        """Return self: the weights are frozen."""
        return self

    def features(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the features of each episode, `(B, 9)` in the order of `FEATURES`."""
        if episodes.tokenizer == self.tokenizer:
            prompts = episodes.tokens[:, : episodes.prompt_length]
            posts = np.where(np.isin(prompts, self._ask), self.tokenizer.pad_id, prompts)
            return summary_features(posts, episodes.response, self._vocabulary)
        return self._text_features(episodes.prompts, episodes.texts)

    def _text_features(self, prompts: list[str], texts: list[str]) -> NDArray[np.float64]:
        posts = [WordTokenizer.split(_ASK.sub("", prompt)) for prompt in prompts]
        summaries = [WordTokenizer.split(text) for text in texts]
        words = list(dict.fromkeys(word for row in (*posts, *summaries) for word in row))
        ids = {word: index for index, word in enumerate(words)}

        def padded(rows: list[list[str]]) -> NDArray[np.int64]:
            table = np.full((len(rows), max(map(len, rows), default=0) or 1), len(words))
            for row, spelt in zip(table, rows, strict=True):
                row[: len(spelt)] = [ids[word] for word in spelt]
            return table

        vocabulary = Vocabulary.of(words, self._rarities)
        return summary_features(padded(posts), padded(summaries), vocabulary)

    def score_texts(self, posts: list[str], texts: list[str]) -> NDArray[np.float64]:
        """Return the score of each summary text for its post, `(B,)`."""
        return weigh(self._text_features(posts, texts), self.weights) - self.shift

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the scores, `(B,)`."""
        return weigh(self.features(episodes), self.weights) - self.shift
