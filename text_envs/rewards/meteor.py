r"""METEOR: words matched one to one with a reference, order counting.

Idea: align the words of text and reference, first equal ones, then equal Porter stems, then
synonyms; with m matches,
    P = m / |text|,  R = m / |reference|,  F = P R / (alpha P + (1 - alpha) R)
    METEOR = F * (1 - gamma * (chunks / m)^beta)
where chunks counts the runs of matches that are adjacent in both. alpha = .9 makes recall count
nine times as much as precision. Computed by NLTK, whose alignment is greedy from the last word on;
the best of several references counts. Words are lower case, punctuation is left out.

NLTK looks synonyms up by the stems that its second stage leaves, and finds none for "movie", whose
stem "movi" is no word; here they are looked up by the words, and matched by stems.

Synonyms need WordNet, which no package of this suite carries. Without it the third stage is
skipped, which gives lower scores than METEOR's on paraphrases: the reward is then called
`meteor-exact-stem`. `synonyms="wordnet"` uses the data where NLTK finds them (`python -m
nltk.downloader wordnet`), a list of groups is a small thesaurus of your own.

Reference: A. Lavie and A. Agarwal, "METEOR: an automatic metric for MT evaluation with high levels
of correlation with human judgments", 2007. Package nltk (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.overlap import stem
from text_envs.rewards.words import references, response_words, split_words

__all__ = ["Meteor"]


class _Stemmer:
    """The cached stemmer in the form that NLTK asks for."""

    @staticmethod
    def stem(word: str) -> str:
        return stem(word)


class _Word:
    """A lemma, and a synset of this one lemma, in the form that NLTK asks for."""

    def __init__(self, word: str) -> None:
        self._word = word

    def name(self) -> str:
        return self._word

    def lemmas(self) -> list[_Word]:
        return [self]


class _Lookup:
    """Synonyms of the words of one text, looked up by their stems: all that NLTK hands on."""

    def __init__(self, reader: Any, words: Sequence[str]) -> None:
        self._reader = reader
        self._words: dict[str, list[str]] = {}
        for word in dict.fromkeys(words):
            self._words.setdefault(stem(word), []).append(word)

    def synsets(self, stemmed: str) -> list[_Word]:
        return [
            _Word(stem(lemma.name().lower()))
            for word in self._words.get(stemmed, ())
            for synset in self._reader.synsets(word)
            for lemma in synset.lemmas()
            if "_" not in lemma.name()  # a phrase: no word can match it
        ]


class _Thesaurus:
    """Groups of synonyms in the form of a WordNet reader."""

    def __init__(self, groups: Iterable[Iterable[str]]) -> None:
        self._same: dict[str, dict[str, _Word]] = {}
        for group in groups:
            words = {word.lower(): _Word(word.lower()) for word in group}
            for word in words:
                self._same.setdefault(word, {}).update(words)

    def synsets(self, word: str) -> list[_Word]:
        return list(self._same.get(word, {}).values())


class Meteor:
    """METEOR of each text with the best of its example's references, from 0 to 1.

    >>> from text_envs.rewards import resolve
    >>> meteor = resolve("meteor")
    >>> meteor.score_texts(["the cats sat"], [["the cat sat"]]).round(6)  # 1 - .5 (1/3)^3
    array([0.981481])
    >>> film = resolve("meteor", synonyms=[["film", "movie"]])
    >>> film.score_texts(["a movie"], [["a film"]]).round(6)  # 1 - .5 (1/2)^3
    array([0.9375])
    """

    def __init__(
        self,
        synonyms: str | Sequence[Sequence[str]] | None = None,
        *,
        alpha: float = 0.9,
        beta: float = 3.0,
        gamma: float = 0.5,
    ) -> None:
        """Choose the synonyms.

        Args:
            synonyms: None to skip that stage, "wordnet", or groups of words that mean the same.
            alpha: weight of precision against recall, between 0 and 1.
            beta: how fast the penalty grows with disorder.
            gamma: the largest penalty.

        Raises:
            ImportError: nltk is missing.
            ValueError: NLTK has not found WordNet.
        """
        try:
            from nltk.translate.meteor_score import meteor_score
        except ImportError as error:
            raise ImportError(
                "reward 'meteor' needs nltk: pip install 'text_envs[metrics]'"
            ) from error
        self._score: Any = meteor_score
        self._wordnet: Any = _load_synonyms(synonyms)
        self._by_wordnet = isinstance(synonyms, str)
        self.name = "meteor-exact-stem" if synonyms is None else "meteor"
        self.alpha, self.beta, self.gamma = float(alpha), float(beta), float(gamma)

    def __deepcopy__(self, memo: dict[int, Any]) -> Meteor:
        """Return self: the metric has no state."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        # WordNet is open files, found again where the pickle is read.
        return {**self.__dict__, "_wordnet": None} if self._by_wordnet else dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._by_wordnet:
            self._wordnet = _load_synonyms("wordnet")

    def score_texts(
        self, texts: Sequence[str], of_each: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        """Return the score of each text with its own references, `(B,)`."""
        return self._score_words([split_words(text) for text in texts], of_each)

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the scores, `(B,)`."""
        return self._score_words(response_words(episodes), references(episodes))

    def _score_words(
        self, rows: Sequence[Sequence[str]], of_each: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        scores = []
        for words, wanted in zip(rows, of_each, strict=True):
            against = [split_words(text) for text in wanted]
            lookup = _Lookup(self._wordnet, words)
            scores.append(
                self._score(
                    against, words, stemmer=_Stemmer(), wordnet=lookup,
                    alpha=self.alpha, beta=self.beta, gamma=self.gamma,
                )
            )  # fmt: skip
        return np.array(scores, dtype=np.float64)

    def __repr__(self) -> str:
        return f"Meteor({self.name!r})"


def _load_synonyms(synonyms: str | Sequence[Sequence[str]] | None) -> Any:
    if synonyms is None or not isinstance(synonyms, str):
        return _Thesaurus(synonyms or ())
    if synonyms != "wordnet":
        raise ValueError(f"synonyms must be None, 'wordnet' or groups of words, got {synonyms!r}")
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError) as error:
        raise ValueError(
            "synonyms='wordnet': NLTK has not found WordNet in the folders of nltk.data.path; run "
            "`python -m nltk.downloader wordnet`"
        ) from error
    return wordnet
