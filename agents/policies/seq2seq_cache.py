"""Cached decoding of encoder-decoder models, for rows that advance side by side.

Their decoders count positions for the whole batch at once, so that only rows of equal length can
share a cache. Rows are kept in groups: those that began together stay together, and each group
feeds one token a step. A row that begins anew, or got several tokens at once, leaves its group and
is computed afresh, with all others of its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

__all__ = ["Read", "SideBySide"]

Ints = NDArray[np.int64]


class Read(NamedTuple):
    """What the encoder made of n prompts.

    Attributes:
        hidden: `(n, S, d)`.
        mask: `(n, S)` int64, 1 where a token stands.
    """

    hidden: Tensor
    mask: Tensor

    def take(self, index: Tensor) -> Read:
        """Return the rows `index`."""
        return Read(self.hidden[index], self.mask[index])


@dataclass
class _Group:
    """Rows of equal length.

    Attributes:
        names: `(n,)` which rows they are.
        seen: `(n, L)` what they showed last.
        last: column of their last token.
        read: their prompts.
        cache: keys and values of the decoder.
    """

    names: Ints
    seen: Ints
    last: int
    read: Read
    cache: Any


class EncoderDecoder(Protocol):
    """What is asked of a model: to read a prompt once, and to write on.

    Attributes:
        lm: the model of transformers.
    """

    lm: Any

    @property
    def split(self) -> int:
        """The first column that the decoder reads."""
        ...

    def read(self, tokens: Tensor) -> Read:
        """Return what the encoder makes of prompts `(n, split)`."""
        ...

    def decoder_input(self, tokens: Tensor) -> Tensor:
        """Return what the decoder is fed for texts `(n, T)`."""
        ...

    def write(self, read: Read, tokens: Tensor, cache: Any = None) -> Tensor:
        """Return the decoder's hidden states."""
        ...


class SideBySide:
    """Last hidden states of observations, feeding the decoder one token a row where it can."""

    def __init__(self) -> None:
        self._groups: list[_Group] = []
        self.weights = -1

    def last_hidden(
        self, model: EncoderDecoder, tokens: Ints, last: Ints, names: Ints, weights: int
    ) -> Tensor:
        """Return the state at the last token of each row, `(n, d)`.

        Args:
            model: reads and writes.
            tokens: `(n, L)` observations.
            last: `(n,)` column of the last token of each row.
            names: `(n,)` distinct names of the rows, stable from call to call.
            weights: a number that changes when the weights do; a change empties the cache.
        """
        if weights != self.weights:
            self._groups, self.weights = [], weights
        free = np.ones(len(tokens), dtype=bool)
        groups: list[_Group] = []
        states, places = [], []
        for group in self._groups:
            kept, at = _continuing(group, tokens, last, names)
            if len(kept):
                states.append(_step(model, group, kept, tokens[at]))
                places.append(at)
                free[at] = False
                groups.append(group)
        for column in np.unique(last[free]).tolist():
            at = np.flatnonzero(free & (last == column))
            group, hidden = _begin(model, names[at], tokens[at], column)
            groups.append(group)
            states.append(hidden)
            places.append(at)
        self._groups = groups
        if len(states) == 1:
            return states[0]  # its rows are all rows, in their order
        order = torch.from_numpy(np.concatenate(places).argsort()).to(states[0].device)
        return torch.cat(states)[order]


def _continuing(group: _Group, tokens: Ints, last: Ints, names: Ints) -> tuple[Ints, Ints]:
    """Return which rows of a group got one token more, and where they are now."""
    _, kept, at = np.intersect1d(group.names, names, return_indices=True)
    upto = group.last + 1
    same = (group.seen[kept, :upto] == tokens[at, :upto]).all(axis=1) & (last[at] == upto)
    order = at[same].argsort()
    return kept[same][order], at[same][order]


def _begin(model: EncoderDecoder, names: Ints, tokens: Ints, last: int) -> tuple[_Group, Tensor]:
    """Compute rows afresh; return them as a group and their last states."""
    whole = torch.from_numpy(tokens).to(model.lm.device)
    read = model.read(whole[:, : model.split])
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    texts = model.decoder_input(whole[:, model.split : last + 1])
    hidden = model.write(read, texts, cache)[:, -1]
    return _Group(names, tokens.copy(), last, read, cache), hidden


def _step(model: EncoderDecoder, group: _Group, kept: Ints, tokens: Ints) -> Tensor:
    """Feed the last token of the rows `kept` of a group, which lose the others."""
    if len(kept) < len(group.names) or (kept[1:] < kept[:-1]).any():
        index = torch.from_numpy(kept).to(model.lm.device)
        group.cache.batch_select_indices(index)
        group.read = group.read.take(index)
        group.names = group.names[kept]
    group.seen = tokens.copy()
    group.last += 1
    fed = torch.from_numpy(tokens[:, group.last : group.last + 1]).to(model.lm.device)
    return model.write(group.read, fed, group.cache)[:, -1]
