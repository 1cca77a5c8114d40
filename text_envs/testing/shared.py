"""What the checks of flat and of goal-conditioned environments have in common."""

from __future__ import annotations

import importlib.util
import json
import pickle
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from text_envs.tokens.protocol import Tokenizer

__all__ = ["STEPS", "check_gymnasium", "check_spec_round_trip", "random_actions", "same", "single",
           "vector"]  # fmt: skip

STEPS = 80  # random tokens per check: several episodes of the short tasks


def single(env_id: str, **kwargs: Any) -> Any:
    """Return the unwrapped environment of an id."""
    return gym.make(env_id, **kwargs).unwrapped


def vector(env_id: str, **kwargs: Any) -> Any:
    """Return the native batch of an id."""
    return gym.make_vec(env_id, vectorization_mode="vector_entry_point", **kwargs).unwrapped


class Tokenized(Protocol):
    """An environment of any kind."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns ids into text."""
        ...


def random_actions(env: Tokenized, count: int, seed: int) -> NDArray[np.int64]:
    """Return random tokens `(STEPS, count)`, the end of text one in ten in any vocabulary."""
    rng = np.random.default_rng(seed)
    words = rng.integers(env.tokenizer.num_actions, size=(STEPS, count))
    return np.where(rng.random((STEPS, count)) < 0.1, env.tokenizer.eos_id, words)


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal, through dictionaries, tuples and arrays of anything."""
    if isinstance(one, dict):
        alike = isinstance(other, dict) and one.keys() == other.keys()
        return alike and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        if one.shape != np.shape(other) or one.dtype != np.asarray(other).dtype:
            return False
        if one.dtype.kind == "O":
            return all(map(same, one.ravel().tolist(), other.ravel().tolist()))
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return bool(one == other) or (one != one and other != other)  # NaN is NaN


def check_gymnasium(env_id: str, **kwargs: Any) -> None:
    """Gymnasium's own checker passes."""
    drawable = importlib.util.find_spec("PIL") is not None  # images need it, nothing else does
    check_env(single(env_id, **kwargs), skip_render_check=not drawable)


def check_spec_round_trip(env_id: str, **kwargs: Any) -> None:
    """The spec survives JSON and pickle, and what it then makes behaves the same."""
    env = gym.make(env_id, **kwargs)
    spec = env.spec
    assert spec is not None
    json.loads(spec.to_json())
    for restored in (EnvSpec.from_json(spec.to_json()), pickle.loads(pickle.dumps(spec))):
        again = gym.make(restored)
        assert same(env.reset(seed=5)[0], again.reset(seed=5)[0])
