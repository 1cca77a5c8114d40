"""Equal episodes scored once: a cache around a slow, deterministic reward model."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

from text_envs.core.reward import Scored, score_with_details
from text_envs.episodes.types import EpisodeBatch, Example
from text_envs.rewards.batches import select
from text_envs.rewards.decorators import Decorator, as_values
from text_envs.tokens.protocol import Tokenizer

__all__ = ["Cache"]

_Row = tuple[dict[str, float], dict[str, float]]  # the ledger and the details of one episode


class Cache(Decorator):
    """Remembers the rewards of episodes and asks the inner model for new ones only.

    Two episodes are the same if tokens, roles, example, finish reason and tokenizer are: then every
    model that does not draw random numbers and scores each row by itself pays them the same, and
    the cache changes no reward. It pays off where texts repeat: small vocabularies, greedy
    evaluation, groups that have collapsed, an LLM judge.

    An example is told apart by its content; one whose metadata cannot be pickled is never cached.
    A deep copy begins empty; a pickle remembers what the original did.

    >>> import gymnasium as gym, text_envs
    >>> from text_envs.rewards import Cache
    >>> env = gym.make("text_envs/Toy-v0", reward=Cache("length", maxsize=1000))
    >>> for episode in range(3):
    ...     observation, info = env.reset(seed=0)
    ...     for token in (0, 1, 2):
    ...         observation, reward, *_ = env.step(token)
    >>> cache = env.unwrapped.reward_model
    >>> float(reward), cache.hits, cache.misses
    (2.0, 2, 1)
    """

    kind = "cache"

    def __init__(self, model: Any, maxsize: int = 100_000) -> None:
        """Set the size.

        Args:
            model: what `text_envs.rewards.resolve` accepts; deterministic.
            maxsize: episodes remembered; the one not used for longest is forgotten first.

        Raises:
            ValueError: `maxsize` is not a positive integer.
        """
        super().__init__(model)
        if not isinstance(maxsize, int) or maxsize < 1:
            raise ValueError(f"maxsize must be an integer of at least 1, got {maxsize!r}")
        self.maxsize = maxsize
        self.clear()

    def clear(self) -> None:
        """Forget everything and count anew."""
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[bytes, _Row] = OrderedDict()
        self._tokenizers: list[Tokenizer] = []
        self._digests: dict[int, tuple[Example, bytes]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, episodes: EpisodeBatch) -> Scored:
        """Return the rewards, remembered or new."""
        keys = self._keys(episodes)
        first: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        found = {key: self._rows[key] for key in first if key in self._rows}
        new = [row for key, row in first.items() if key not in found]
        if new:
            ledger, details = score_with_details(self.model, select(episodes, new))
            for place, row in enumerate(new):
                found[keys[row]] = (
                    {name: float(column[place]) for name, column in ledger.items()},
                    {name: float(column[place]) for name, column in details.items()},
                )
        self.misses += len(new)
        self.hits += len(keys) - len(new)
        self._remember(found)
        rows = [found[key] for key in keys]
        names = list(dict.fromkeys(name for _, details in rows for name in details))
        return Scored(
            as_values({name: np.array([r[0][name] for r in rows]) for name in rows[0][0]}),
            {name: np.array([r[1].get(name, np.nan) for r in rows]) for name in names},
        )

    def _remember(self, found: dict[bytes, _Row]) -> None:
        for key, row in found.items():
            self._rows[key] = row
            self._rows.move_to_end(key)
        while len(self._rows) > self.maxsize:
            self._rows.popitem(last=False)

    def _keys(self, episodes: EpisodeBatch) -> list[bytes]:
        """Return a digest of everything that a reward may depend on, one a row."""
        shared = f"{self._tokenizer_number(episodes.tokenizer)} {episodes.prompt_length}".encode()
        keys = []
        for row, reason in enumerate(episodes.finish_reasons):
            digest = hashlib.blake2b(shared, digest_size=20)
            for part in (
                episodes.tokens[row].tobytes(),
                episodes.roles[row].tobytes(),
                reason.encode(),
                self._example_digest(episodes, row),
            ):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
            keys.append(digest.digest())
        return keys

    def _tokenizer_number(self, tokenizer: Tokenizer) -> int:
        for number, known in enumerate(self._tokenizers):
            if known is tokenizer or known == tokenizer:
                return number
        self._tokenizers.append(tokenizer)
        return len(self._tokenizers) - 1

    def _example_digest(self, episodes: EpisodeBatch, row: int) -> bytes:
        example = episodes.example(row)
        index = int(episodes.example_indices[row])
        known, digest = self._digests.get(index, (None, b""))
        if known is example:
            return digest
        try:
            content = pickle.dumps((example.prompt, example.references, dict(example.metadata)))
        except Exception:  # pickle raises whatever the object raises
            return os.urandom(20)  # equal to nothing
        digest = hashlib.blake2b(content, digest_size=20).digest()
        if len(self._digests) >= self.maxsize:
            self._digests.clear()
        self._digests[index] = (example, digest)
        return digest

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        """Return an empty cache around a copy of the model."""
        return Cache(copy.deepcopy(self.model, memo), self.maxsize)

    def __getstate__(self) -> dict[str, Any]:
        # Digests of examples are made again; the examples may hold what cannot be pickled.
        return {**self.__dict__, "_digests": {}}
