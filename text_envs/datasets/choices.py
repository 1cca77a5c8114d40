"""Policies of every kind as one thing that chooses the next token of some rows."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from text_envs.core.engine import TokenEngine
from text_envs.core.task import Task
from text_envs.episodes.errors import suggest
from text_envs.episodes.types import Turns
from text_envs.policies.functions import LogProbs, as_log_probs
from text_envs.policies.scripted import Script
from text_envs.tokens.vocabulary import check_vocabulary, vocabulary_of

__all__ = ["Chooser", "Scripted", "as_chooser", "policy_name"]

# A model's cache holds the rows of its last call; rows are dropped from it in groups.
_KEEP_WHILE = 0.8


class Chooser(Protocol):
    """Chooses the next tokens of some rows."""

    def __call__(self, obs: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the actions `(B,)` of `rows` `(B,)`, given the observations of all rows."""
        ...


def policy_name(policy: Any) -> str:
    """Return by which name a data set remembers who played."""
    if isinstance(policy, str | os.PathLike):
        return os.fspath(policy)
    named = policy if inspect.isroutine(policy) else type(policy)
    return getattr(policy, "name", None) or str(getattr(named, "__qualname__", named))


def as_chooser(policy: Any, task: Task, *, deterministic: bool, seed: int) -> Chooser:
    """Return what chooses the tokens.

    Args:
        policy: see `text_envs.datasets.collect`; names of qualities are for `Scripted`.
        task: whose observations and actions.
        deterministic: take the most probable token instead of drawing one.
        seed: of the draws from log-probabilities.

    Raises:
        TypeError: a policy of no known kind.
        ValueError: a name that is neither a quality nor a language model's, or a policy that
            learnt with other words.
    """
    if isinstance(policy, str):
        _check_name(policy, task)
    check_vocabulary(f"policy {policy_name(policy)}", vocabulary_of(policy), task.tokenizer)
    if hasattr(policy, "predict"):
        return _Predict(policy, deterministic)
    rng = np.random.default_rng([seed, 2])
    known = callable(policy) and not hasattr(policy, "parameters")  # a module of torch is called
    if known and not hasattr(policy, "tokenizer"):
        return _Function(policy, task, deterministic, rng)
    return _Drawn(as_log_probs(policy, task), deterministic, rng)


def _check_name(name: str, task: Task) -> None:
    # A name with a slash may be one of the Hub; what it is, is known when it is loaded.
    if name == "reviews" or "/" in name or os.path.exists(name):
        return
    raise ValueError(
        f"unknown policy {name!r}.{suggest(name, (*task.qualities, 'reviews'))} Or the path or Hub "
        "name of a language model."
    )


class Scripted:
    """Writes the turns of a task's script token by token.

    Attributes:
        script: who plays; its `qualities` tell how well.
    """

    def __init__(self, engine: TokenEngine, quality: str, seed: int) -> None:
        """Plan for the rows of `engine`.

        Args:
            engine: the rows.
            quality: one of the task's.
            seed: of the script's draws.
        """
        self.engine = engine
        self.script = Script(engine.task, quality, seed, engine.num_envs)
        self.plans: dict[int, list[int]] = {}
        self.turn = engine.turn_start.copy()

    def begin(self, rows: NDArray[np.int64]) -> None:
        """Forget the plans of rows that start again."""
        self.script.begin(rows)
        for row in rows.tolist():
            self.plans.pop(row, None)

    def __call__(self, obs: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the next token of the plan of each of `rows`, `(B,)`."""
        engine = self.engine
        # A turn that the environment ended before its plan was written out needs a new plan.
        for row in rows[engine.turn_start[rows] != self.turn[rows]].tolist():
            self.plans.pop(row, None)
        self.turn = engine.turn_start.copy()
        empty = np.array([row for row in rows.tolist() if not self.plans.get(row)], dtype=np.int64)
        if len(empty):
            turns = Turns(
                rows=empty,
                tokens=engine.tokens[empty],
                start=engine.position[empty],
                stop=engine.position[empty],
                example_indices=engine.example_index[empty],
                memory=engine.memory,
                rngs=[self.script.rngs[row] for row in empty.tolist()],
            )
            for row, tokens in zip(empty.tolist(), self.script(turns), strict=True):
                self.plans[row] = [int(token) for token in tokens]
        return np.array([self.plans[row].pop(0) for row in rows.tolist()], dtype=np.int64)


class _Group:
    """The rows that a model is shown: those asked for, and for a while those that have finished.

    Args:
        keep_while: as long as more than this share of the rows is asked for; 1.0 keeps none.
    """

    def __init__(self, keep_while: float = _KEEP_WHILE) -> None:
        self.keep_while = keep_while
        self.rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def of(self, asked: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the rows to show, and where among them those asked for are."""
        here = np.isin(self.rows, asked)
        if here.sum() < len(asked) or len(asked) <= self.keep_while * len(self.rows):
            self.rows, here = asked, np.ones(len(asked), dtype=bool)
        return self.rows, here


class _Predict:
    """Whatever has `predict(obs, deterministic=...)`, as Stable-Baselines3 defines it."""

    def __init__(self, policy: Any, deterministic: bool) -> None:
        self.policy, self.deterministic = policy, deterministic
        # An agent that writes whole utterances (`agents.policies.value_guided`) cannot plan for a
        # text that is over.
        plans = getattr(getattr(policy, "policy", policy), "plans", None) is not None
        self.group = _Group(1.0 if plans else _KEEP_WHILE)

    def __call__(self, obs: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        shown, asked = self.group.of(rows)
        chosen = self.policy.predict(_rows_of(obs, shown), deterministic=self.deterministic)
        # Stable-Baselines3 returns the state of a recurrent policy too.
        actions = np.asarray(chosen[0] if isinstance(chosen, tuple) else chosen)
        if isinstance(chosen, tuple) and len(chosen) > 1 and chosen[1] is not None:
            raise TypeError(
                f"{type(self.policy).__name__} is recurrent; an observation holds the whole text, "
                "so a policy without a state of its own is expected"
            )
        return _checked(actions, len(shown), self.policy)[asked]


class _Drawn:
    """Draws from log-probabilities by inverting their cumulative sum."""

    def __init__(self, log_probs: Any, deterministic: bool, rng: np.random.Generator) -> None:
        self.log_probs: Any = log_probs
        self.deterministic, self.rng = deterministic, rng
        self.group = _Group()

    def __call__(self, obs: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        shown, asked = self.group.of(rows)
        tokens = _rows_of(obs, shown)
        tokens = tokens["observation"] if isinstance(tokens, dict) else tokens
        return self.draw(self.log_probs(tokens, rows=shown)[asked])

    def draw(self, log_probs: NDArray[np.float64]) -> NDArray[np.int64]:
        if self.deterministic:
            return np.asarray(log_probs.argmax(axis=1))
        cumulative = np.exp(log_probs).cumsum(axis=1)  # (B, V)
        # Below the last sum, which rounding leaves near 1: a token of probability 0 is never drawn.
        threshold = self.rng.random(len(log_probs)) * cumulative[:, -1]
        return np.asarray((cumulative <= threshold[:, None]).sum(axis=1))


class _Function:
    """A function of observations: of actions `(B,)`, or of log-probabilities `(B, num_actions)`."""

    def __init__(
        self,
        function: Callable[..., Any],
        task: Task,
        deterministic: bool,
        rng: np.random.Generator,
    ) -> None:
        self.function, self.task = function, task
        self.deterministic, self.rng = deterministic, rng
        self.drawn: _Drawn | None = None

    def __call__(self, obs: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.drawn is not None:
            return self.drawn(obs, rows)
        shown = _rows_of(obs, rows)
        returned = self.function(shown)
        if np.ndim(returned) == 2:
            self.drawn = _Drawn(self._log_probs(returned), self.deterministic, self.rng)
            return self.drawn(obs, rows)
        return _checked(np.asarray(returned), len(rows), self.function)

    def _log_probs(self, first: Any) -> LogProbs:
        """Return the function, checked; what it has returned already is not asked for again."""
        pending = [first]

        def once_more(tokens: NDArray[np.int64]) -> Any:
            return pending.pop() if pending else self.function(tokens)

        once_more.__name__ = policy_name(self.function)
        return as_log_probs(once_more, self.task)


def _rows_of(obs: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(obs, dict):
        return {name: values[rows] for name, values in obs.items()}
    return obs[rows]


def _checked(actions: NDArray[Any], count: int, policy: Any) -> NDArray[np.int64]:
    if actions.shape != (count,) or actions.dtype.kind not in "iu":
        raise ValueError(
            f"policy {policy_name(policy)} returned {actions.dtype} of shape {actions.shape} for "
            f"{count} observations; accepted: {count} token ids, or log-probabilities "
            f"({count}, num_actions)"
        )
    return actions.astype(np.int64)
