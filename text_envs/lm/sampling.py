r"""How a language model's scores become the distribution that tokens are drawn from.

As `generate` of transformers does it, in its order:

1. scores of tokens that the text holds already are divided by `repetition_penalty` where they are
   positive and multiplied by it where they are negative;
2. the end of the text gets no probability before `min_tokens` tokens are written;
3. scores are divided by `temperature`;
4. `top_k`, `top_p` and `min_p` leave out what is unlikely, each of what the one before has left.

The first three give every token that may be written a probability. The fourth truncates: what it
leaves out has none, and which tokens these are changes with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Sampling",
    "ban",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "penalise",
    "truncate",
    "written_in",
]

# How many of the likeliest words are looked at first: whole vocabularies are slow to sort.
_FIRST = 256


@dataclass(frozen=True)
class Sampling:
    """Settings of the distribution that tokens are drawn from, see the module.

    Attributes:
        temperature: divides the scores; above 0.
        top_k: only so many of the likeliest tokens, and equals of the last; None for all.
        top_p: only the likeliest tokens that make up this probability, in (0, 1]; None for all.
        min_p: only tokens with at least this share of the likeliest one's probability, in [0, 1];
            None for all.
        repetition_penalty: makes what the text holds, prompt included, less likely where it is
            above 1; above 0.
        min_tokens: how many tokens stand behind the prompt before the end may.

    Raises:
        ValueError: one of them is out of range; it is named.

    >>> Sampling(top_k=50, top_p=0.9)
    Sampling(top_k=50, top_p=0.9)
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    min_tokens: int = 0

    def __post_init__(self) -> None:
        """Check every value, and keep it as a plain number."""
        for name, (whole, fine, accepted) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not fine(value) or (whole and value != int(value)):
                raise ValueError(f"{name} must be {accepted}, got {value!r}")
            object.__setattr__(self, name, int(value) if whole else float(value))

    @property
    def truncates(self) -> bool:
        """Whether tokens are left out that another set of weights might write."""
        cut = self.top_k is not None or (self.top_p is not None and self.top_p < 1)
        return cut or bool(self.min_p)

    @property
    def reads_text(self) -> bool:
        """Whether the distribution depends on the text beyond what the model makes of it."""
        return self.repetition_penalty != 1 or self.min_tokens > 0

    @property
    def is_plain(self) -> bool:
        """Whether it is the softmax of the scores at a temperature."""
        return not (self.truncates or self.reads_text)

    def __repr__(self) -> str:
        given = [
            f"{f.name}={v!r}" for f in fields(self) if (v := getattr(self, f.name)) != f.default
        ]
        return f"Sampling({', '.join(given)})"


_OPTIONAL = ("top_k", "top_p", "min_p")
_RANGES: dict[str, tuple[bool, Any, str]] = {
    "temperature": (False, lambda x: 0 < x < float("inf"), "above 0"),
    "top_k": (True, lambda x: 1 <= x < float("inf"), "None or an integer above 0"),
    "top_p": (False, lambda x: 0 < x <= 1, "None or in (0, 1]"),
    "min_p": (False, lambda x: 0 <= x <= 1, "None or in [0, 1]"),
    "repetition_penalty": (False, lambda x: 0 < x < float("inf"), "above 0"),
    "min_tokens": (True, lambda x: 0 <= x < float("inf"), "an integer of at least 0"),
}


# -- what depends on the text -------------------------------------------------------------------


def written_in(ids: Tensor, num_actions: int) -> Tensor:
    """Return which actions occur among ids, bool `(M, A)`.

    Args:
        ids: `(M, L)` int64; what is no action, padding for example, is passed over.
        num_actions: A.
    """
    usable = (ids >= 0) & (ids < num_actions)
    found = torch.zeros(len(ids), num_actions + 1, dtype=torch.bool, device=ids.device)
    found.scatter_(1, torch.where(usable, ids, num_actions), True)
    return found[:, :num_actions]


def penalise(scores: Tensor, written: Tensor, penalty: float) -> Tensor:
    """Return scores `(M, A)` with those of what is `written` `(M, A)` made smaller."""
    return torch.where(written, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def ban(scores: Tensor, ids: Sequence[int], where: Tensor) -> Tensor:
    """Return scores `(M, A)`, minus infinity for `ids` in the rows `where`, bool `(M,)`."""
    banned = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
    banned[list(ids)] = True
    return scores.masked_fill(where[:, None] & banned, -torch.inf)


# -- what is unlikely ---------------------------------------------------------------------------


def truncate(scores: Tensor, sampling: Sampling) -> Tensor:
    """Return scores `(M, A)` at minus infinity where they are left out."""
    if sampling.top_k is not None:
        scores = keep_top_k(scores, sampling.top_k)
    if sampling.top_p is not None:
        scores = keep_top_p(scores, sampling.top_p)
    if sampling.min_p is not None:
        scores = keep_min_p(scores, sampling.min_p)
    return scores


def keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    """Return scores `(M, A)` with all but the `top_k` highest left out; equals of the last stay."""
    if top_k >= scores.shape[1]:
        return scores
    least = scores.topk(top_k, dim=1).values[:, -1:]
    return scores.masked_fill(scores < least, -torch.inf)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """Return scores `(M, A)` with all but the likeliest that make up `top_p` left out.

    A token stays if the tokens behind it, itself included, have more than `1 - top_p`. Which of
    several equal ones at the border stay is left to the sorting.
    """
    if top_p >= 1:
        return scores
    if scores.shape[1] <= 4 * _FIRST:
        return _sorted_top_p(scores, top_p)
    log_p = scores.float().log_softmax(dim=1)
    first = log_p.topk(_FIRST + 1, dim=1).values  # (M, _FIRST + 1), descending
    before = first.exp().double().cumsum(dim=1) - first.exp()
    kept = (before[:, :-1] < top_p).sum(dim=1, keepdim=True)  # (M, 1) at least 1
    border = first.gather(1, kept - 1)
    # Where the border lies beyond the first ones, or between equals, all have to be sorted.
    unclear = (kept == _FIRST) | (first.gather(1, kept) == border)
    cut = scores.masked_fill(log_p < border, -torch.inf)
    if bool(unclear.any()):
        rows = unclear.squeeze(1).nonzero().squeeze(1)
        cut = cut.index_copy(0, rows, _sorted_top_p(scores[rows], top_p))
    return cut


def _sorted_top_p(scores: Tensor, top_p: float) -> Tensor:
    ordered, order = scores.sort(dim=1)  # as transformers calls it: equals come out alike
    unlikely = ordered.softmax(dim=1).cumsum(dim=1) <= 1 - top_p
    unlikely[:, -1] = False
    return scores.masked_fill(torch.zeros_like(unlikely).scatter(1, order, unlikely), -torch.inf)


def keep_min_p(scores: Tensor, min_p: float) -> Tensor:
    """Return scores `(M, A)` without those less likely than `min_p` times the likeliest."""
    if min_p == 0:
        return scores
    p = scores.softmax(dim=1)
    best = p.amax(dim=1, keepdim=True)
    return scores.masked_fill((p < min_p * best) & (p < best), -torch.inf)
