r"""CIDEr-D: agreement with several references, rare phrases counting more.

Idea: a text is a vector over its n-grams g (n = 1..4), weighed by how rare they are in the
TRAINING references,
    v_g(text) = count_g(text) * (log N - log max(1, df_g))
with N training documents (sets of references), df_g of which contain g. For a text c and
references r_1 .. r_m,
    D_n(c, r) = exp(-(|c| - |r|)^2 / (2 * 6^2)) * sum_g min(v_g(c), v_g(r)) v_g(r) / (|v(c)| |v(r)|)
    CIDEr-D   = 10 * mean over n and over references of D_n(c, r)
The document frequencies are fixed, so a reward depends on its own text alone. Words are lower
case, punctuation is left out.

Reference: R. Vedantam et al., "CIDEr: consensus-based image description evaluation", 2015,
arXiv 1411.5726.
"""

from __future__ import annotations

import copy
import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.words import references, response_words, split_words
from text_envs.tokens.assets import ASSETS

__all__ = ["CiderD", "count_documents"]

_FILE = ASSETS / "concepts" / "ngrams.json"
_MOST_CACHED = 20_000  # vectors of references; a few kilobytes each
_LONGEST = 4  # words of an n-gram

NGram = tuple[str, ...]


def count_documents(
    training_references: Iterable[Sequence[str]],
) -> tuple[int, Mapping[NGram, int]]:
    """Return the number of documents that have references, and of how many each n-gram is part."""
    documents = [texts for texts in training_references if len(texts)]
    found: Counter[NGram] = Counter()
    for texts in documents:
        found.update({gram for text in texts for gram in _ngrams(split_words(text))})
    return len(documents), found


@functools.cache
def _bundled() -> tuple[int, Mapping[NGram, int]]:
    """Return the counts of ConceptsToSentence-v0, whose task stands on this file."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    grams = {
        tuple(gram.split()): int(count)
        for count, found in content["ngrams"].items()
        for gram in found
    }
    return int(content["documents"]), grams


def _ngrams(words: Sequence[str]) -> Iterator[NGram]:
    for n in range(1, _LONGEST + 1):
        yield from (tuple(words[i : i + n]) for i in range(len(words) - n + 1))


class _Vector:
    """The weighed n-grams of one text, the norm for each n, and the number of words."""

    def __init__(self, words: Sequence[str], weigh: dict[NGram, float], rarest: float) -> None:
        self.length = len(words)
        counts = Counter(_ngrams(words))
        self.weights = {gram: k * weigh.get(gram, rarest) for gram, k in counts.items()}
        squares = [0.0] * _LONGEST
        for gram, weight in self.weights.items():
            squares[len(gram) - 1] += weight * weight
        self.norms = [math.sqrt(square) for square in squares]


class CiderD:
    """CIDEr-D of each text with its example's references, from 0 to 10.

    >>> cider = CiderD([["the dog runs"], ["the cat runs"]])
    >>> cider.score_texts(["the dog runs"], [["the dog runs"]])  # 4-grams do not exist here
    array([7.5])
    >>> CiderD()  # the training references of ConceptsToSentence-v0
    CiderD(2048 training documents)

    Args:
        training_references: the references of each training document; default those of the
            training split of `ConceptsToSentence-v0`.
        sigma: width in words of the penalty on differing lengths.

    Raises:
        ValueError: fewer than two training documents, where every weight would be 0.
    """

    name = "ciderd"

    def __init__(
        self,
        training_references: Iterable[Sequence[str]] | None = None,
        *,
        sigma: float = 6.0,
    ) -> None:
        if training_references is None:
            self.documents, frequencies = _bundled()
        else:
            self.documents, frequencies = count_documents(training_references)
        if self.documents < 2:
            raise ValueError(
                "CIDEr-D weighs n-grams by how many training documents have them and needs at "
                f"least two documents with references, got {self.documents}"
            )
        self._rarest = math.log(self.documents)
        self._weights = {gram: self._rarest - math.log(k) for gram, k in frequencies.items()}
        self._sigma = float(sigma)
        self._cache: dict[str, _Vector] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> CiderD:
        """Return the same document frequencies, which are frozen, with references of its own."""
        twin = copy.copy(self)
        twin._cache = dict(self._cache)  # whose vectors are never changed
        return twin

    def score_texts(
        self, texts: Sequence[str], of_each: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        """Return the score of each text with its own references, `(B,)`."""
        return self._score([split_words(text) for text in texts], of_each)

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the scores, `(B,)`."""
        return self._score(response_words(episodes), references(episodes))

    def _score(
        self, rows: Sequence[Sequence[str]], of_each: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        scores = np.zeros(len(rows))
        for row, (words, texts) in enumerate(zip(rows, of_each, strict=True)):
            vector = _Vector(words, self._weights, self._rarest)
            against = [self._similarity(vector, self._reference(text)) for text in texts]
            scores[row] = 10 * sum(against) / len(against)
        return scores

    def _reference(self, text: str) -> _Vector:
        vector = self._cache.get(text)
        if vector is None:
            if len(self._cache) >= _MOST_CACHED:
                self._cache.clear()
            vector = _Vector(split_words(text), self._weights, self._rarest)
            self._cache[text] = vector
        return vector

    def _similarity(self, text: _Vector, reference: _Vector) -> float:
        """Return the mean over n of the clipped cosines, times the penalty on length."""
        products = [0.0] * _LONGEST
        theirs = reference.weights
        for gram, weight in text.weights.items():
            other = theirs.get(gram)
            if other is not None:
                products[len(gram) - 1] += min(weight, other) * other
        cosine = sum(
            product / (a * b)
            for product, a, b in zip(products, text.norms, reference.norms, strict=True)
            if product > 0
        )
        difference = text.length - reference.length
        return cosine / _LONGEST * math.exp(-(difference**2) / (2 * self._sigma**2))

    def __repr__(self) -> str:
        return f"CiderD({self.documents} training documents)"
