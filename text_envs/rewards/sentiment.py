"""The bundled sentiment model: logistic regression over the words of a review, in numpy.

Idea: the log-odds that a critic liked the film are a sum of word weights,
    logit(review) = b + sum_w weight[w] * min(count of w, clip)
so that the reward of a text can be read off its words, and gamed by piling up praise.
"""

from __future__ import annotations

import functools
import json
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.tokens.assets import ASSETS
from text_envs.tokens.loading import load_tokenizer
from text_envs.tokens.protocol import Tokenizer

__all__ = ["Sentiment"]

_FILE = ASSETS / "reviews" / "sentiment.json"
_OUTPUTS = ("probability", "logit", "signed")


@functools.cache
def _weights() -> tuple[NDArray[np.float64], float, int]:
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    weights = np.array(content["weights"], dtype=np.float64)
    weights.flags.writeable = False
    return weights, float(content["bias"]), int(content["clip"])


class Sentiment:
    """How much a text reads like a favourable review, in one number.

    Only the response is scored, that is the words the agent wrote: words of the prompt are not
    the agent's doing, and counting them would pay for the luck of the draw. With the bundled
    reviews tokenizer the ids are scored as they are; with any other the texts are encoded with it
    first. Words outside the vocabulary, end and padding weigh nothing, so a text without any known
    word gets the bias alone.

    >>> model = Sentiment(output="signed")
    >>> model.score_texts(["a warm and moving film", "a dull mess"]).round(2)
    array([ 0.83, -0.9 ])

    Args:
        output: `"probability"` of a favourable review, in (0, 1); its `"logit"`, unbounded; or
            `"signed"`, twice the probability less one, in (-1, 1).

    Raises:
        ValueError: `output` is none of these.
    """

    name = "sentiment"

    def __init__(self, output: Literal["probability", "logit", "signed"] = "probability") -> None:
        if output not in _OUTPUTS:
            raise ValueError(f"unknown output {output!r}.{suggest(output, _OUTPUTS)}")
        self.output = output
        self.tokenizer: Tokenizer = load_tokenizer("reviews")
        self.weights, self.bias, self.clip = _weights()

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Score finished episodes: `(B,)`."""
        if episodes.tokenizer == self.tokenizer:
            return self.score_tokens(episodes.response)
        return self.score_texts(episodes.texts)

    def score_texts(self, texts: list[str]) -> NDArray[np.float64]:
        """Score plain texts: `(B,)`."""
        rows = [self.tokenizer.encode(text) for text in texts]
        tokens = np.full((len(rows), max(map(len, rows), default=0)), self.tokenizer.pad_id)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        return self.score_tokens(tokens)

    def score_tokens(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Score ids of the reviews tokenizer, `(B, T)`, padding anywhere: `(B,)`."""
        ids = np.sort(self._checked(tokens), axis=-1)  # equal words side by side: see _earlier
        weights = self.weights[ids]
        weights[..., self.clip :][ids[..., self.clip :] == ids[..., : -self.clip]] = 0.0
        logits = weights.sum(axis=-1) + self.bias
        if self.output == "logit":
            return np.asarray(logits, dtype=np.float64)
        signed = np.tanh(logits / 2)  # cannot overflow, unlike 1 / (1 + exp(-logits))
        return np.asarray(signed if self.output == "signed" else (1 + signed) / 2)

    def token_scores(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return what each token adds to the logit, for heat maps.

        Args:
            tokens: ids of the reviews tokenizer, `(..., T)`.

        Returns:
            `(..., T)`: the word's weight; zero for padding, end, unknown words, and from the
            repetition on at which a word stops counting. The sum over T plus the bias is the logit.
        """
        ids = self._checked(tokens)  # (..., T)
        return np.where(self._earlier(ids) < self.clip, self.weights[ids], 0.0)

    def _checked(self, tokens: ArrayLike) -> NDArray[np.int64]:
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.tokenizer.vocab_size):
            raise ValueError(
                f"token ids must lie in 0..{self.tokenizer.vocab_size - 1}, "
                f"got {ids.min()}..{ids.max()}"
            )
        return ids

    def _earlier(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how often each token stood earlier in its row, counted up to `clip`."""
        # A stable sort puts equal ids side by side, in order: a token has stood `clip` times
        # before exactly if the one `clip` places earlier in the sorted row is equal.
        order = ids.argsort(axis=-1, kind="stable")
        ranked = np.take_along_axis(ids, order, axis=-1)
        seen = np.zeros_like(ids)
        for back in range(1, self.clip + 1):
            seen[..., back:] += ranked[..., back:] == ranked[..., :-back]
        earlier = np.empty_like(ids)
        np.put_along_axis(earlier, order, seen, axis=-1)
        return earlier

    def __repr__(self) -> str:
        return f"Sentiment(output={self.output!r})"
