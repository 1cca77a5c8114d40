"""Writing turns with a token-level policy: every row a token at a time, all rows in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.guides.base import Completion, Guide, Query
from text_envs.policies.functions import PolicyFunction
from text_envs.tokens.protocol import end_ids

__all__ = ["Sampler", "draw"]

# Rows that are finished leave the model's batch in groups: moving its cache costs about a step.
_KEEP_WHILE = 0.8
# Rows a model sees at once; its cache holds keys and values of all their columns.
_MOST_ROWS = 512


class Sampler(Guide):
    """A token-level policy that writes turns, all rows in one batch, from the rows' generators."""

    def __init__(
        self,
        task: Task,
        policy: PolicyFunction,
        *,
        name: str,
        deterministic: bool = False,
        **sampling: Any,
    ) -> None:
        """Decode `policy`, see `as_guide`; `sampling` are settings of `text_envs.lm.sampling`.

        Raises:
            ValueError: a setting of `text_envs.lm.sampling` out of range.
        """
        super().__init__(task, name)
        self.policy, self.deterministic = policy, deterministic
        self.temperature = float(sampling.pop("temperature", 1.0))
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature:g}")
        self._draws: Any = None
        if sampling:  # more than a temperature: what the agents' own settings are, with torch
            from text_envs.lm.choosing import Chosen

            tokens = task.tokenizer
            self._draws = Chosen(
                tokens.num_actions,
                tokens.pad_id,
                eos_ids=end_ids(tokens),
                prompt_length=task.prompt_length,
                temperature=self.temperature,
                **sampling,
            )

    def fork(self) -> Sampler:
        """Return a sampler with the same weights and a cache of its own."""
        other = cast(Sampler, super().fork())
        other.policy = self.policy.fork()
        return other

    def write(self, query: Query) -> list[Completion]:
        """Write the rest of every turn."""
        tokens, position = query.tokens.copy(), query.stop.copy()
        for first in range(0, len(query), _MOST_ROWS):
            part = np.arange(first, min(first + _MOST_ROWS, len(query)))
            self._write_rows(query, part, tokens, position)
        return [
            row[start:stop].tolist()
            for row, start, stop in zip(tokens, query.stop, position, strict=True)
        ]

    def _write_rows(
        self,
        query: Query,
        batch: NDArray[np.int64],
        tokens: NDArray[np.int64],
        position: NDArray[np.int64],
    ) -> None:
        """Write into the rows `batch` of `tokens` `(B, L)` from `position` `(B,)` on."""
        ends, limit = end_ids(self.task.tokenizer), query.stop + query.room
        stops = self.task.stops
        going = np.zeros(len(query), dtype=bool)
        going[batch] = True
        while going.any():
            if going.sum() <= _KEEP_WHILE * len(batch):
                batch = np.flatnonzero(going)
            scores = self._scores(tokens[batch], query.rows[batch])  # (n, A)
            still = going[batch]
            rows = batch[still]
            rngs = [query.rngs[i] for i in rows.tolist()]
            chosen = self._choose(scores[still], rngs, tokens[rows])
            tokens[rows, position[rows]] = chosen
            position[rows] += 1
            going[rows] = ~np.isin(chosen, ends) & (position[rows] < limit[rows])
            if stops is not None:
                going[rows] &= ~stops.complete(tokens[rows], query.start[rows], position[rows])

    def _scores(self, tokens: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return log-probabilities `(n, A)`, up to a constant a row."""
        actor = self.policy.actor
        if actor is None:
            return self.policy(tokens, rows)
        import torch

        with torch.inference_mode():
            hidden, seen = actor.decode(tokens, rows)[0], actor.seen(tokens)
            scores: NDArray[Any] = actor.sampling_logits(hidden, seen).cpu().numpy()
        if not np.isfinite(scores.max(axis=1)).all():
            raise FloatingPointError("the scores of the language model are not finite")
        return scores

    def _choose(
        self,
        scores: NDArray[Any],
        rngs: Sequence[np.random.Generator],
        tokens: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the next token of the rows `tokens` `(n, L)`, of which `scores` `(n, A)` are."""
        if self._draws is not None:
            scores = self._draws.choose(scores, tokens)
        if self.deterministic:
            greedy: NDArray[np.int64] = scores.argmax(axis=1)
            return greedy
        uniforms = np.array([rng.random() for rng in rngs])
        temperature = 1.0 if self._draws is not None else self.temperature
        return draw(scores, uniforms, temperature=temperature)


def draw(
    log_probs: NDArray[Any],
    uniforms: NDArray[np.float64],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> NDArray[np.int64]:
    """Draw one action a row by inverting the cumulative distribution of p^(1/temperature).

    Args:
        log_probs: `(B, A)`, up to a constant a row; minus infinity is never drawn.
        uniforms: `(B,)` in [0, 1).
        temperature: above 0.
        top_p: keep the smallest set of actions whose mass reaches it; equal ones stay together.

    Returns:
        `(B,)`.

    >>> draw(np.log([[0.5, 0.2, 0.3]] * 3), np.array([0.49, 0.51, 0.99])).tolist()
    [0, 1, 2]
    >>> draw(np.log([[0.5, 0.2, 0.3]] * 3), np.array([0.49, 0.64, 0.99]), top_p=0.6).tolist()
    [0, 2, 2]
    """
    p = np.exp((log_probs - log_probs.max(axis=1, keepdims=True)) / temperature)  # (B, A)
    if top_p < 1:
        ordered = np.sort(p, axis=1)[:, ::-1]
        mass = ordered.cumsum(axis=1)
        last = (mass < top_p * mass[:, -1:]).sum(axis=1)  # (B,) the set's least likely action
        p[p < ordered[np.arange(len(p)), last, None]] = 0.0
    cumulative = p.cumsum(axis=1, dtype=np.float64)
    total = cumulative[:, -1:]
    threshold = np.minimum(uniforms[:, None] * total, np.nextafter(total, 0))
    # The sum rises at the first cell above the threshold, so that cell has a probability.
    chosen: NDArray[np.int64] = (cumulative <= threshold).sum(axis=1)
    return chosen
