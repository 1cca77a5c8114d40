"""Overlap with what was asked for: concepts covered, BLEU and ROUGE with the references."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.words import references, response_words
from text_envs.tokens.assets import ASSETS

__all__ = ["Bleu", "Coverage", "Rouge", "stem"]

_STEMS = ASSETS / "concepts" / "stems.json"
_ROUGE = ("rouge1", "rouge2", "rougeL")
_NEEDS = "needs the extra that compares texts: pip install 'text_envs[metrics]'"


@functools.cache
def _stems() -> dict[str, str]:
    table: dict[str, str] = json.loads(_STEMS.read_text(encoding="utf-8"))["stems"]
    return table


@functools.cache
def _porter() -> Any:
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise ImportError(
            f"stemming words outside the bundled table, which has {len(_stems())}, {_NEEDS}"
        ) from error
    return PorterStemmer()


@functools.lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Return the Porter stem of a lower-case word.

    The words of `ConceptsToSentence-v0` are looked up in a bundled table; others need nltk.

    Raises:
        ImportError: the word is not in the table and nltk is missing.
    """
    return _stems().get(word) or str(_porter().stem(word))


class Coverage:
    """Share of the concepts that the text uses in any inflection, equal Porter stems counting.

    The concepts are `example.metadata["concepts"]`.

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make("text_envs/ConceptsToSentence-v0", reward="coverage")
    >>> observation, info = env.reset(seed=0)
    >>> _, reward, *_ = env.step(env.unwrapped.tokenizer.eos_id)  # nothing said, nothing covered
    >>> float(reward)
    0.0
    """

    name = "coverage"

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the shares, `(B,)`."""
        shares = np.zeros(len(episodes))
        for row, (words, example) in enumerate(
            zip(response_words(episodes), episodes.examples, strict=True)
        ):
            concepts = example.metadata.get("concepts", ())
            if not concepts:
                raise ValueError(
                    f"example {int(episodes.example_indices[row])} has no 'concepts' in its "
                    "metadata, and coverage counts them"
                )
            used = set(map(stem, words))
            shares[row] = sum(stem(concept) in used for concept in concepts) / len(concepts)
        return shares


class Bleu:
    """Sentence BLEU with all references, from 0 to 1, by the package sacrebleu.

    Orders longer than the text are left out ("effective order").

    >>> Bleu().score_texts(["the cat sat"], [["the cat sat", "a cat sat down"]]).round(6)
    array([1.])

    Raises:
        ImportError: sacrebleu is missing.
    """

    name = "bleu"

    def __init__(self) -> None:
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ImportError as error:
            raise ImportError(f"reward 'bleu' {_NEEDS}") from error
        self._metric: Any = BLEU(effective_order=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Bleu:
        """Return self: the metric has no state."""
        return self

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the scores, `(B,)`."""
        return self.score_texts(episodes.texts, references(episodes))

    def score_texts(
        self, texts: Sequence[str], of_each: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        """Return the score of each text with its own references, `(B,)`."""
        pairs = zip(texts, of_each, strict=True)
        scores = [self._metric.sentence_score(text, list(refs)).score for text, refs in pairs]
        return np.array(scores) / 100


class Rouge:
    """ROUGE F1 with the best of the references, from 0 to 1, by the package rouge-score.

    >>> Rouge("rougeL").score_texts(["the cat sat"], [["the cat lay down"]]).round(6)  # 2 * 2 / 7
    array([0.571429])

    Args:
        kind: "rouge1", "rouge2" or "rougeL".

    Raises:
        ValueError: another kind.
        ImportError: rouge-score is missing.
    """

    name = "rouge"

    def __init__(self, kind: str = "rougeL") -> None:
        if kind not in _ROUGE:
            raise ValueError(f"unknown kind {kind!r}.{suggest(kind, _ROUGE)}")
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise ImportError(f"reward 'rouge' {_NEEDS}") from error
        self.kind = kind
        self._scorer: Any = RougeScorer([kind], use_stemmer=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rouge:
        """Return self: the scorer has no state."""
        return self

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the scores, `(B,)`."""
        return self.score_texts(episodes.texts, references(episodes))

    def score_texts(
        self, texts: Sequence[str], of_each: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        """Return the score of each text with its own references, `(B,)`."""
        pairs = zip(texts, of_each, strict=True)
        scores = [self._scorer.score_multi(refs, text)[self.kind].fmeasure for text, refs in pairs]
        return np.array(scores)
