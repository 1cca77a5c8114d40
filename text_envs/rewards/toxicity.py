"""How rude a comment is, graded: a trained classifier, or a bundled linear model of its verdicts.

Idea: a probability p of being offensive becomes a label and the label a price,
    label = [p >= 1/4] + [p >= 3/4],    reward = -5 * label
The bundled model needs numpy alone. Over the words w that the classifier knows, with counts c_w,
    logit p = b + sum_w weight[w] * c_w / sqrt(sum_w c_w)
"""

from __future__ import annotations

import functools
import json
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.words import count_words, response_ids, weigh
from text_envs.tokens.assets import ASSETS
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["Toxicity", "grade"]

_FILE = ASSETS / "comments" / "toxicity.json"
_BACKENDS = ("bundled", "classifier")
THRESHOLDS = (0.25, 0.75)  # from here on a comment is borderline, and rude


@functools.cache
def _bundled() -> tuple[WordTokenizer, NDArray[np.float64], float]:
    """Return the vocabulary, the weights `(words,)`, NaN for words that do not count, the bias."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    weights = [np.nan if weight is None else weight for weight in content["words"].values()]
    return WordTokenizer(list(content["words"])), np.array(weights), float(content["bias"])


def grade(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the label 0 (fine), 1 (borderline) or 2 (rude) of each probability, `(B,)`."""
    return np.digitize(probabilities, THRESHOLDS).astype(np.int64)


class Toxicity:
    """0 for a decent comment, -5 for a borderline one, -10 for a rude one.

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make("text_envs/Comments-v0", reward="toxicity")
    >>> observation, info = env.reset(seed=0)
    >>> _, reward, *_ = env.step(env.unwrapped.tokenizer.eos_id)  # nothing said, nothing rude
    >>> float(reward)
    0.0

    Args:
        backend: "bundled", a linear model of the classifier's verdicts on the suite's own
            comments, to which other words mean nothing; or "classifier", the classifier of the
            package alt-profanity-check itself, which reads any English.
        noised: label every borderline comment fine or rude instead, by a coin. The coin depends
            on `seed`, the example and the text alone, so one comment always gets one label.
        seed: of the coin.

    Raises:
        ValueError: an unknown backend.
        ImportError: the classifier is asked for and its package is missing.
    """

    name = "toxicity"

    def __init__(
        self,
        backend: Literal["bundled", "classifier"] = "bundled",
        *,
        noised: bool = False,
        seed: int = 0,
    ) -> None:
        if backend not in _BACKENDS:
            raise ValueError(f"unknown backend {backend!r}.{suggest(str(backend), _BACKENDS)}")
        self.backend = backend
        self.noised = bool(noised)
        self.seed = int(seed)
        self._classify: Any = _load_classifier() if backend == "classifier" else None
        self.tokenizer, self._weights, self._bias = _bundled()

    def __deepcopy__(self, memo: dict[int, Any]) -> Toxicity:
        """Return self: the weights are frozen."""
        return self

    def probabilities(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return how likely each comment is offensive, `(B,)`."""
        if self._classify is not None:
            return np.asarray(self._classify(episodes.texts), dtype=np.float64)
        return self.score_ids(response_ids(episodes, self.tokenizer))

    def score_ids(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the bundled model's probability for ids of its own tokenizer, `(B, T)`: `(B,)`."""
        counts = count_words(ids, len(self._weights))  # (B, V)
        counted = ~np.isnan(self._weights)
        total = weigh(counts, np.where(counted, self._weights, 0.0))
        logits = self._bias + total / np.sqrt(np.maximum(counts[:, counted].sum(axis=1), 1))
        return np.asarray((1 + np.tanh(logits / 2)) / 2)  # a sigmoid that cannot overflow

    def labels(self, episodes: EpisodeBatch) -> NDArray[np.int64]:
        """Return the labels 0, 1, 2 of the comments, `(B,)`; only 0 and 2 if `noised`."""
        labels = grade(self.probabilities(episodes))
        if self.noised:
            for row in np.flatnonzero(labels == 1).tolist():
                key = f"{self.seed} {episodes.example_indices[row]} {episodes.texts[row]}"
                labels[row] = 2 * (zlib.crc32(key.encode()) & 1)
        return labels

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the rewards, `(B,)`."""
        return np.array([0.0, -5.0, -10.0])[self.labels(episodes)]

    def __repr__(self) -> str:
        return f"Toxicity(backend={self.backend!r}, noised={self.noised}, seed={self.seed})"


def _load_classifier() -> Any:
    try:
        from profanity_check import predict_prob
    except ImportError as error:
        raise ImportError(
            "the toxicity classifier needs the package alt-profanity-check: "
            "pip install 'text_envs[toxicity]' (or use the bundled model, backend='bundled')"
        ) from error
    return predict_prob
