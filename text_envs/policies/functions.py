"""Policies of every kind as one thing: a function from observations to log-probabilities.

What looks into a policy instead of only sampling from it (exact evaluation, reference shaping,
guides) takes a language model, an agent of Stable-Baselines3 or a plain function through
`as_log_probs`. Importing this module does not import torch; only a model does.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.policies.sources import (
    Scores,
    action_lm,
    agent_scores,
    check_actions,
    is_lm,
    lm_scores,
    load_for,
)
from text_envs.tokens.protocol import Tokenizer

if TYPE_CHECKING:
    from text_envs.lm import ActionLM

__all__ = ["LogProbs", "PolicyFunction", "as_log_probs", "uniform"]

LogProbs: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""A policy function: observations `(B, L)` to log-probabilities `(B, num_actions)`."""

# Observations a network sees at once; a language model keeps the states of all of them.
_CHUNK = 256
# Scores of one chunk at most: 2**24 float64 take 128 MiB.
_CHUNK_SCORES = 2**24
# How far the probabilities of a plain function may be from summing to 1: float32 is enough.
_TOLERANCE = 1e-5


class PolicyFunction:
    """A checked policy function, see `as_log_probs`.

    It follows the source: if the source learns, the function changes with it.

    Attributes:
        name: by which messages speak of the source.
        tokenizer: of the actions.
        actor: the language model behind it, or None; sampling from it needs no float64.
    """

    actor: ActionLM | None = None

    def __init__(
        self,
        raw: Scores,
        tokenizer: Tokenizer,
        name: str,
        *,
        scores: bool = False,
        chunk: int | None = None,
    ) -> None:
        """Wrap `raw`.

        Args:
            raw: maps observations and names of rows (or None) to `(B, num_actions)`.
            tokenizer: whose actions.
            name: for messages.
            scores: True where `raw` returns scores before the softmax; ids that may not be
                written are then left out here.
            chunk: observations `raw` takes at once, or None for all of them.
        """
        self._raw, self._scores, self._chunk = raw, scores, chunk
        self.tokenizer, self.name = tokenizer, name
        self._forbidden = np.asarray(tokenizer.forbidden, dtype=bool)
        self._made_from: tuple[Callable[..., PolicyFunction], tuple[Any, ...]] | None = None

    def fork(self) -> PolicyFunction:
        """Return a function of the same source whose cache is its own."""
        if self._made_from is None or self.actor is None:
            return self  # it remembers nothing
        make, (_, task, *_) = self._made_from
        forked = make(self.actor.like(self.actor.lm), task)
        forked.name = self.name
        return forked

    def __reduce__(self) -> tuple[Callable[..., PolicyFunction], tuple[Any, ...]]:
        """Pickle what it was made from: functions and caches are made anew."""
        if self._made_from is None:
            raise TypeError(f"policy {self.name} was made by hand; pickle what as_log_probs takes")
        return self._made_from

    def __call__(
        self, tokens: NDArray[np.int64], rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return the log-probabilities of every action.

        Args:
            tokens: `(B, L)` observations.
            rows: `(B,)` distinct names of the rows, stable from call to call: a language model
                then computes only what is new in a row since the last call. None for observations
                that have nothing to do with the last call's.

        Returns:
            `(B, num_actions)` float64, normalised; minus infinity at ids that may not be written.

        Raises:
            ValueError: the source returned another shape, NaN, or no distribution.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"observations must be integers of shape (B, L), got {tokens.dtype} of shape "
                f"{tokens.shape}"
            )
        if rows is not None and np.shape(rows) != (len(tokens),):
            raise ValueError(
                f"rows must name {len(tokens)} observations, got shape {np.shape(rows)}"
            )
        # Rows with names go together: a decoder's cache holds the rows of its last call.
        chunk = self._chunk if rows is None and self._chunk else max(1, len(tokens))
        out = np.empty((len(tokens), self.tokenizer.num_actions))
        for start in range(0, len(tokens), chunk):
            part = slice(start, start + chunk)
            out[part] = self._distribution(self._raw(tokens[part], rows), len(tokens[part]), start)
        return out

    def _distribution(self, returned: Any, count: int, start: int) -> NDArray[np.float64]:
        if hasattr(returned, "detach"):
            returned = returned.detach().cpu().double().numpy()
        values = np.asarray(returned, dtype=np.float64)
        expected = (count, self.tokenizer.num_actions)
        if values.shape != expected:
            raise ValueError(
                f"policy {self.name} returned shape {values.shape} for {count} observations; "
                f"expected {expected}, one log-probability for each action"
            )
        if self._scores:
            values = np.where(self._forbidden, -np.inf, values)
        total = _log_sum(values, self.name, start)
        if not self._scores:
            self._check(values, total, start)
        return values - total[:, None]

    def _check(self, values: NDArray[np.float64], total: NDArray[np.float64], start: int) -> None:
        wrong = ~(np.abs(np.expm1(total)) <= _TOLERANCE)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"policy {self.name}: the probabilities of observation {start + row} sum to "
                f"{np.exp(total[row]):.6g}, not 1; return log-probabilities, such as a log-softmax"
            )
        banned = (values[:, self._forbidden] > -np.inf).any(axis=1)
        if banned.any():
            ids = np.flatnonzero(self._forbidden)[:5].tolist()
            raise ValueError(
                f"policy {self.name} gives observation {start + int(banned.argmax())} a "
                f"probability for ids that may not be written (such as {ids}); "
                "return -inf for them"
            )

    def __repr__(self) -> str:
        return f"PolicyFunction({self.name}, {self.tokenizer.num_actions} actions)"


def _log_sum(values: NDArray[np.float64], name: str, start: int) -> NDArray[np.float64]:
    """Return the logarithm of the summed exponentials of each row, `(B,)`."""
    top = values.max(axis=1, initial=-np.inf)
    wrong = ~np.isfinite(top)
    if wrong.any():
        row = int(wrong.argmax())
        what = "nothing a probability" if top[row] == -np.inf else f"the score {top[row]}"
        raise ValueError(f"policy {name} gives {what} at observation {start + row}")
    total: NDArray[np.float64] = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
    return total


def uniform(task: Task | Tokenizer) -> PolicyFunction:
    """Return the policy that writes every id that may be written with the same probability."""
    tokenizer = task.tokenizer if isinstance(task, Task) else task
    flat = np.zeros(tokenizer.num_actions)

    def raw(tokens: NDArray[np.int64], rows: NDArray[np.int64] | None) -> NDArray[np.float64]:
        return np.broadcast_to(flat, (len(tokens), len(flat)))

    function = PolicyFunction(raw, tokenizer, "uniform", scores=True)
    function._made_from = (uniform, (task,))
    return function


def as_log_probs(source: Any, task: Task | Tokenizer, device: Any = "auto") -> PolicyFunction:
    """Return the policy function of `source`.

    Args:
        source: one of
            a function of observations `(B, L)` that returns log-probabilities `(B, num_actions)`
            (an array or a tensor; if it has a parameter `rows`, it is passed on);
            a causal language model of transformers, or a name that `text_envs.lm.load_lm` knows;
            an `ActionLM`, with its temperature;
            an agent or a policy of Stable-Baselines3: its distribution, or, where it has none
            (DQN), its deterministic choice with probability 1;
            anything with such a thing in its attribute `policy`.
            Ids that may not be written are left out of the distribution of a network, as an
            action mask does.
        task: whose observations and actions. A tokenizer does for policies that need not know
            where the prompt ends.
        device: where a model that is named is put; "auto" is the GPU where there is one. Models
            that are given as objects stay where they are.

    Raises:
        ValueError: the source belongs to another vocabulary or to other observations, or there is
            no such device.
        TypeError: the source is of another kind.

    >>> from text_envs.tasks.toy import Toy
    >>> policy = as_log_probs(lambda tokens: np.log([[0.5, 0.3, 0.2]] * len(tokens)), Toy())
    >>> np.exp(policy(np.array([[5, 4, 4, 4]]))).round(3).tolist()
    [[0.5, 0.3, 0.2]]
    """
    tokenizer = task.tokenizer if isinstance(task, Task) else task
    if isinstance(source, PolicyFunction):
        check_actions(source.name, source.tokenizer.num_actions, tokenizer)
        return source
    if hasattr(source, "policy"):
        return as_log_probs(source.policy, task, device)
    function = _of_source(source, task, tokenizer, device)
    function._made_from = (as_log_probs, (source, task, device))
    return function


def _of_source(
    source: Any, task: Task | Tokenizer, tokenizer: Tokenizer, device: Any
) -> PolicyFunction:
    if isinstance(source, str | os.PathLike):
        return _of_lm(load_for(tokenizer, source, device), repr(os.fspath(source)), task)
    if is_lm(source):
        return _of_lm(source, type(source).__name__, task)
    if hasattr(source, "get_distribution") or hasattr(source, "predict"):
        return _of_agent(source, task)
    if callable(source):
        return _of_function(source, tokenizer)
    raise TypeError(
        f"a policy must be a function of observations, a causal language model or its name, or an "
        f"agent or policy of Stable-Baselines3; got {type(source).__name__}"
    )


def _of_function(function: Callable[..., Any], tokenizer: Tokenizer) -> PolicyFunction:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        takes_rows = "rows" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable without a signature
        takes_rows = False

    def raw(tokens: NDArray[np.int64], rows: NDArray[np.int64] | None) -> Any:
        return function(tokens, rows=rows) if takes_rows else function(tokens)

    return PolicyFunction(raw, tokenizer, name)


def _of_lm(lm: Any, name: str, task: Task | Tokenizer) -> PolicyFunction:
    actor = action_lm(lm, name, task)
    tokenizer = task.tokenizer if isinstance(task, Task) else task
    chunk = max(1, min(_CHUNK, _CHUNK_SCORES // tokenizer.num_actions))

    def raw(tokens: NDArray[np.int64], rows: NDArray[np.int64] | None) -> Any:
        return lm_scores(actor, np.asarray(tokens, dtype=np.int64), rows, chunk)

    function = PolicyFunction(raw, tokenizer, name, scores=True, chunk=chunk)
    function.actor = actor
    return function


def _of_agent(policy: Any, task: Task | Tokenizer) -> PolicyFunction:
    tokenizer = task.tokenizer if isinstance(task, Task) else task
    name = type(policy).__name__
    raw = agent_scores(policy, name, task)
    return PolicyFunction(raw, tokenizer, name, scores=True, chunk=_CHUNK)
