"""Whether readers vote a reply up: a bundled linear model, or the votes that the data recorded.

Idea: readers like words, and replies that are about the comment,
    logit = b + sum_w weight[w] * [w in reply] + on_topic * [reply names the comment's topic]
and the reward is the sign of the logit.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.words import count_words, prompt_ids, response_ids, weigh
from text_envs.tokens.assets import ASSETS
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["Upvotes", "vote_features"]

_FILE = ASSETS / "comments" / "upvotes.json"
_BACKENDS = ("bundled", "data")


@functools.cache
def _bundled() -> tuple[WordTokenizer, NDArray[np.bool_], NDArray[np.float64], float]:
    """Return the vocabulary, which words are topics, the weights of the features, the bias."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    tokenizer = WordTokenizer(list(content["words"]))
    topics: NDArray[np.bool_] = np.array([w in content["topics"] for w in tokenizer.words])
    weights = np.array([*content["words"].values(), content["on_topic"]])
    return tokenizer, topics, weights, float(content["bias"])


def vote_features(
    parents: NDArray[np.int64], replies: NDArray[np.int64], topics: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the features of replies, `(B, V + 1)`: presence of each word, and being on topic.

    Args:
        parents: `(B, P)` ids of the comments.
        replies: `(B, T)` ids of the replies.
        topics: `(V,)` True for words that a comment may be about.
    """
    present = count_words(replies, len(topics)) > 0  # (B, V)
    asked = count_words(parents, len(topics)) > 0
    on_topic = (present & asked & topics).any(axis=1, keepdims=True)
    return np.concatenate([present, on_topic], axis=1).astype(np.float64)


class Upvotes:
    """+1 for a reply that is voted up, -1 for one that is voted down.

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make("text_envs/Comments-v0", reward="upvotes")
    >>> observation, info = env.reset(seed=0)
    >>> _, reward, *_ = env.step(env.unwrapped.tokenizer.eos_id)
    >>> float(reward)
    -1.0

    Args:
        backend: "bundled", a linear model of votes on the suite's own comments; or "data": the
            sign of the recorded score where a text repeats a reply of the data word for word
            (a score of 0 or less is -1), and 0 for every other text.

    Raises:
        ValueError: an unknown backend.
    """

    name = "upvotes"

    def __init__(self, backend: Literal["bundled", "data"] = "bundled") -> None:
        if backend not in _BACKENDS:
            raise ValueError(f"unknown backend {backend!r}.{suggest(str(backend), _BACKENDS)}")
        self.backend = backend
        self.tokenizer, self.topics, self._weights, self._bias = _bundled()

    def __deepcopy__(self, memo: dict[int, Any]) -> Upvotes:
        """Return self: the weights are frozen."""
        return self

    def logits(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the bundled model's log-odds of a vote up, `(B,)`."""
        parents = prompt_ids(episodes, self.tokenizer)
        replies = response_ids(episodes, self.tokenizer)
        return weigh(vote_features(parents, replies, self.topics), self._weights) + self._bias

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the votes, `(B,)`."""
        if self.backend == "data":
            return np.array([self._recorded(episodes, row) for row in range(len(episodes))])
        return np.where(self.logits(episodes) > 0, 1.0, -1.0)

    @staticmethod
    def _recorded(episodes: EpisodeBatch, row: int) -> float:
        replies = episodes.example(row).metadata.get("replies", ())
        if not any(score == score for _, score in replies):
            raise ValueError(
                f"example {int(episodes.example_indices[row])} has no reply with a score; "
                "backend='data' needs recorded votes"
            )
        # What the tokenizer cannot spell, the agent cannot write: both go through it.
        tokenizer, text = episodes.tokenizer, episodes.texts[row]
        for reply, score in replies:
            if tokenizer.decode(tokenizer.encode(reply)) == text and score == score:
                return 1.0 if score > 0 else -1.0
        return 0.0

    def __repr__(self) -> str:
        return f"Upvotes(backend={self.backend!r})"
