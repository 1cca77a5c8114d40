r"""The distribution that a language model's tokens are drawn from, and scored under.

`ActionLM.logits` and `log_probs` are the model's own, at the temperature: what data are likely
under. `sampling_logits` and `sampling_log_probs` are what is written from, see
`text_envs.lm.sampling`; without further settings they are the same, at the same cost.

With `top_k`, `top_p` or `min_p`, an action outside of what they keep is scored as if they kept it:
$\log z_a - \log (\sum_{v \in S} z_v + z_a)$ in place of $\log z_a - \log \sum_{v \in S} z_v$. So
a model scores what another one drew, and $E_q[\log q - \log p]$ of a policy $q$ to a reference $p$
with the same settings is finite, 0 for equal weights, and below the KL to the whole reference by at
most $-\log$ of the mass that $p$ keeps, at each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from text_envs.lm.likelihood import entropy, token_log_probs
from text_envs.lm.sampling import Sampling, ban, penalise, truncate, written_in

__all__ = ["Chooses", "Chosen", "Seen", "as_ids", "sampling_as"]

# Scores worked on at a time: each of several steps makes as many anew.
_CHUNK_SCORES = 2**22


@dataclass(frozen=True)
class Seen:
    """The texts at whose ends tokens are chosen, as far as the distribution asks for them.

    Attributes:
        tokens: `(B, L)` int64 observations.
        rows: `(M,)` int64, which of them.
        columns: `(M,)` int64, the last column of each text.
    """

    tokens: Tensor
    rows: Tensor
    columns: Tensor

    def part(self, start: int, stop: int) -> Seen:
        """Return the texts from `start` to `stop`."""
        return Seen(self.tokens, self.rows[start:stop], self.columns[start:stop])

    def ids(self, first: int, pad_id: int) -> Tensor:
        """Return what stands from column `first` to each end, `(M, L)`; -1 elsewhere."""
        tokens = self.tokens[self.rows]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        outside = (columns > self.columns[:, None]) | (columns < first) | (tokens == pad_id)
        return tokens.masked_fill(outside, -1)


class Chooses:
    """What `ActionLM` is as a distribution to draw from.

    Attributes:
        eos_ids: what ends a text; needed for `min_tokens` only.
    """

    num_actions: int
    pad_id: int
    prompt_length: int | None
    eos_ids: tuple[int, ...] = ()
    reads_prompt = True  # whether what stands in the prompt counts as repeated
    _sampling: Sampling

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores of the actions `(M, A)`."""
        raise NotImplementedError

    def log_probs(
        self, hidden: Tensor, actions: Tensor, *, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities `(M,)` of actions and, if asked for, entropies `(M,)`."""
        raise NotImplementedError

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; may be changed at any time."""
        return self._sampling

    @sampling.setter
    def sampling(self, value: Sampling) -> None:
        if not isinstance(value, Sampling):
            raise ValueError(f"sampling must be a Sampling, got {value!r}")
        if value.min_tokens and (not self.eos_ids or self.prompt_length is None):
            raise ValueError(
                f"min_tokens={value.min_tokens} needs the end of a text and the prompt's length; "
                f"got eos_ids={self.eos_ids}, prompt_length={self.prompt_length}"
            )
        self._sampling = value

    @property
    def temperature(self) -> float:
        """What divides the scores; may be changed at any time."""
        return self._sampling.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.sampling = replace(self._sampling, temperature=value)

    def choose_like(self, other: Chooses) -> None:
        """Take over how another one draws, so that equal weights are the same distribution."""
        self.eos_ids = other.eos_ids
        self.sampling = other.sampling

    def seen(
        self,
        tokens: Tensor | NDArray[np.int64],
        columns: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Seen | None:
        """Return what `sampling_logits` must know of the texts; None if it need not know them.

        Args:
            tokens: `(B, L)` int64 observations.
            columns: `(B, T)` int64, the last columns of texts; None for all that is written.
            mask: bool `(B, T)`, which of `columns` count.
        """
        if not self._sampling.reads_text:
            return None
        whole = torch.as_tensor(tokens)
        if columns is None:
            filled = (whole != self.pad_id).flip(1)
            columns = whole.shape[1] - 1 - filled.int().argmax(dim=1, keepdim=True)
        chosen = torch.ones_like(columns, dtype=torch.bool) if mask is None else mask
        return Seen(whole, chosen.nonzero()[:, 0], columns[chosen])

    def sampling_logits(self, hidden: Tensor, seen: Seen | None = None) -> Tensor:
        """Return scores `(M, A)` whose softmax tokens are drawn from.

        Args:
            hidden: `(M, d)` states.
            seen: the texts that they are of, see `seen`.

        Raises:
            ValueError: the distribution depends on the texts, and they are not given.
        """
        scores = self.logits(hidden)
        return (
            scores
            if self._sampling.is_plain
            else truncate(self._read(scores, seen), self._sampling)
        )

    def sampling_log_probs(
        self,
        hidden: Tensor,
        actions: Tensor,
        seen: Seen | None = None,
        *,
        with_entropy: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities `(M,)` under the distribution that tokens are drawn from.

        An action that `top_k`, `top_p` or `min_p` would leave out now is scored as one that they
        keep: it was drawn before the last update, or another model drew it, or it lies on the
        border, where two ways of computing the same score may differ in the last digit.

        Args:
            hidden: `(M, d)` states.
            actions: `(M,)` int64.
            seen: the texts that the states are of, see `seen`.
            with_entropy: also return the entropies `(M,)`.
        """
        if self._sampling.is_plain:
            return self.log_probs(hidden, actions, with_entropy=with_entropy)
        size = max(16, _CHUNK_SCORES // self.num_actions)
        log_probs, entropies = [], []
        for start in range(0, max(1, len(hidden)), size):
            stop = start + size
            texts = None if seen is None else seen.part(start, stop)
            part = (hidden[start:stop], actions[start:stop], texts, with_entropy)
            if torch.is_grad_enabled():  # the scores of one chunk alone are kept at a time
                log_p, h = checkpoint(self._score, *part, use_reentrant=False)
            else:
                log_p, h = self._score(*part)
            log_probs.append(log_p)
            entropies.append(h)
        return torch.cat(log_probs), torch.cat(entropies) if with_entropy else None

    def _score(
        self, hidden: Tensor, actions: Tensor, seen: Seen | None, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        scores = self._read(self.logits(hidden), seen)
        if self._sampling.truncates:
            left_out = truncate(scores.detach(), self._sampling).isneginf()
            left_out = left_out.scatter(1, actions[:, None], False)
            scores = scores.masked_fill(left_out, -torch.inf)
        return token_log_probs(scores, actions), entropy(scores) if with_entropy else None

    def _read(self, scores: Tensor, seen: Seen | None) -> Tensor:
        """Return scores `(M, A)` with what depends on the text done to them."""
        sampling = self._sampling
        if not sampling.reads_text:
            return scores
        if seen is None:
            raise ValueError(
                f"{sampling!r} depends on the text so far; pass seen=actor.seen(tokens, columns, "
                "mask) beside the states"
            )
        first = 0 if self.reads_prompt else self.prompt_length or 0
        if sampling.repetition_penalty != 1:
            ids = seen.ids(first, self.pad_id).to(scores.device)
            written = written_in(ids, self.num_actions)
            scores = penalise(scores, written, sampling.repetition_penalty)
        if sampling.min_tokens:
            written_so_far = seen.columns.to(scores.device) + 1 - (self.prompt_length or 0)
            scores = ban(scores, self.eos_ids, written_so_far < sampling.min_tokens)
        return scores


class Chosen(Chooses):
    """The same for scores of any origin.

    Args:
        num_actions: A.
        pad_id: marks empty columns.
        eos_ids: what ends a text.
        prompt_length: number of prompt columns.
        **sampling: fields of `Sampling`.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(
        self,
        num_actions: int,
        pad_id: int,
        *,
        eos_ids: Iterable[int],
        prompt_length: int | None,
        **sampling: Any,
    ) -> None:
        self.num_actions, self.pad_id, self.prompt_length = num_actions, pad_id, prompt_length
        self.eos_ids = as_ids(eos_ids, num_actions)
        self.sampling = Sampling(**sampling)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores `(M, A)` at the temperature."""
        return hidden / self.temperature

    def choose(self, scores: NDArray[Any], tokens: NDArray[np.int64]) -> NDArray[Any]:
        """Return scores `(M, A)` to draw from, of observations `(M, L)`."""
        chosen = self.sampling_logits(torch.from_numpy(np.asarray(scores)), self.seen(tokens))
        return chosen.numpy()


@contextmanager
def sampling_as(*modules: nn.Module, **changes: Any) -> Iterator[None]:
    """Let every language model in `modules` draw with other settings meanwhile.

    Args:
        *modules: actors, or policies that hold some.
        **changes: fields of `Sampling`.
    """
    found = {id(m): m for module in modules for m in module.modules() if isinstance(m, Chooses)}
    before = {key: actor.sampling for key, actor in found.items()}
    try:
        for key, actor in found.items():
            actor.sampling = replace(before[key], **changes)
        yield
    finally:
        for key, actor in found.items():
            actor.sampling = before[key]


def as_ids(ids: Iterable[int], num_actions: int) -> tuple[int, ...]:
    """Return ids of actions in ascending order, each once.

    Raises:
        ValueError: one is no action.
    """
    found = tuple(sorted({int(i) for i in ids}))
    if found and not 0 <= found[0] <= found[-1] < num_actions:
        raise ValueError(f"eos_ids must be actions 0..{num_actions - 1}, got {list(found)}")
    return found
