"""An independent judge of sentiment: the VADER lexicon, which no agent here is trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import EpisodeBatch

__all__ = ["Vader"]


class Vader:
    """Compound score of the VADER lexicon for the agent's words, between -1 and 1.

    The lexicon was rated by people and shares no weights with the learned sentiment reward: when
    the reward rises and this score does not, the reward is being exploited.

    >>> from text_envs.rewards import resolve
    >>> resolve("vader").score_texts(["a wonderful film", "a dull mess"])
    array([ 0.5719, -0.6369])

    References:
        C. Hutto and E. Gilbert, "VADER: A parsimonious rule-based model for sentiment analysis of
        social media text", ICWSM 2014. Package vaderSentiment (MIT).
    """

    name = "vader"

    def __init__(self) -> None:
        """Load the lexicon.

        Raises:
            ImportError: the package is missing; the message names the extra that brings it.
        """
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError as error:
            raise ImportError(
                "reward 'vader' needs the package vaderSentiment: pip install 'text_envs[judge]'"
            ) from error
        self._analyzer: Any = SentimentIntensityAnalyzer()

    def __deepcopy__(self, memo: dict[int, Any]) -> Vader:
        """Return self: the lexicon is read-only."""
        return self

    def score_texts(self, texts: list[str]) -> NDArray[np.float64]:
        """Return the compound score of each text, `(B,)`."""
        return np.array([self._analyzer.polarity_scores(text)["compound"] for text in texts])

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`."""
        return self.score_texts(episodes.texts)
