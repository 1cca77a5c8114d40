"""Cached decoding that follows observations: only what is new in a row is computed.

An environment hands over whole observations, step after step. `CachedDecoder` compares each row
with the row it saw last, keeps the keys and values of the common prefix, and feeds the rest: one
token a row in the usual case, the tokens of a reply after a turn, a whole prompt after a reset.
Nobody has to say which of these happened, so the same code serves roll-outs, `predict` and stock
Stable-Baselines3.

Layout: the key of observation column j lives in slot j of its row. As prompts are left-padded,
rows that advance together write to the same slot (a slice) and attend to a slice. Memory is
linear: rows x columns x layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from text_envs.lm.transfers import upload

__all__ = ["KEEP_WHILE", "CachedDecoder", "SlotLayer", "SlotPlan"]

KEEP_WHILE = 0.8
"""Share of rows still going at which the others leave a batch: moving the cache costs a step."""

Ints = NDArray[np.int64]


@dataclass
class SlotPlan:
    """Where the keys of the next forward pass go, and which slots it attends to.

    Attributes:
        slots: `(n, q)` slot of each new token, or the first slot if all rows write to the same.
        rows: `(n,)` the rows of the cache that take part, or None for the first n.
        low: first slot attended to.
        high: one past the last slot attended to.
    """

    slots: Tensor | int = 0
    rows: Tensor | None = None
    low: int = 0
    high: int = 0


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer in preallocated slots; `plan` says which.

    Args:
        plan: shared by all layers and set before each forward pass.
        num_rows: rows to allocate.
        num_slots: slots a row.
    """

    def __init__(self, plan: SlotPlan, num_rows: int, num_slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.plan, self.num_rows, self.num_slots = plan, num_rows, num_slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate; zeros, because a masked slot must still hold a number."""
        _, heads, _, size = key_states.shape
        self.keys = key_states.new_zeros(self.num_rows, heads, self.num_slots, size)
        size = value_states.shape[-1]
        self.values = value_states.new_zeros(self.num_rows, heads, self.num_slots, size)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write `(n, heads, q, size)` states and return the slots to attend to."""
        if not self.is_initialized or cast(Tensor, self.keys).dtype != key_states.dtype:
            self.lazy_initialization(key_states, value_states)  # autocast was entered or left
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        plan, (n, _, q, _) = self.plan, key_states.shape
        if isinstance(plan.slots, int) and plan.rows is None:
            keys[:n, :, plan.slots : plan.slots + q] = key_states
            values[:n, :, plan.slots : plan.slots + q] = value_states
            return keys[:n, :, plan.low : plan.high], values[:n, :, plan.low : plan.high]
        rows = torch.arange(n, device=keys.device) if plan.rows is None else plan.rows
        slots = plan.slots
        if isinstance(slots, int):
            slots = torch.arange(slots, slots + q, device=keys.device).expand(n, q)
        keys[rows[:, None], :, slots] = key_states.transpose(1, 2)
        values[rows[:, None], :, slots] = value_states.transpose(1, 2)
        if plan.rows is None:
            return keys[:n, :, plan.low : plan.high], values[:n, :, plan.low : plan.high]
        return keys[rows, :, plan.low : plan.high], values[rows, :, plan.low : plan.high]

    def move_rows(self, source: Tensor) -> None:
        """Put row `source[i]` into row i, for every i."""
        if self.is_initialized:
            keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
            keys[: len(source)] = keys[source]
            values[: len(source)] = values[source]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of slots attended to and the first of them."""
        return self.plan.high - self.plan.low, self.plan.low

    def get_seq_length(self) -> int:
        """Return the number of slots up to the last one in use."""
        return self.plan.high

    def get_max_length(self) -> int:
        """Return the number of slots."""
        return self.num_slots

    get_max_cache_shape = get_max_length  # its name in the first releases of transformers 5


class CachedDecoder:
    """Last hidden states of observations, computing only what is new in each row.

    Args:
        backbone: the transformer without its output layer; called with `input_ids`,
            `attention_mask` (4-dimensional, additive), `position_ids`, `past_key_values`.
        pad_id: marks empty columns.
        fill_id: any id the model knows; stands in for padding in tensors.
        fingerprint: a number that changes when the weights do; a change empties the cache.

    Attributes:
        weights: the fingerprint when what is cached was computed. A copy has other tensors, hence
            another one; who copies the model sets it.
    """

    def __init__(
        self,
        backbone: Callable[..., Any],
        *,
        pad_id: int,
        fill_id: int,
        fingerprint: Callable[[], int],
    ) -> None:
        self._backbone, self._fingerprint = backbone, fingerprint
        self._pad_id, self._fill_id = pad_id, fill_id
        self._allocate(0, 0)
        self.weights = -1

    def _allocate(self, rows: int, columns: int) -> None:
        self._plan = SlotPlan()
        layer = partial(SlotLayer, self._plan, rows, columns)
        self._cache = Cache(layer_class_to_replicate=cast(Any, layer))
        self._seen: Ints = np.zeros((rows, columns), dtype=np.int64)  # what was fed, by column
        self._cached: Ints = np.zeros(rows, dtype=np.int64)  # columns of it that are valid
        self._ids: Ints = np.zeros(0, dtype=np.int64)  # which row of the batch a cache row is
        self._bias: Tensor | None = None  # (rows, columns) 0 where a slot may be attended to

    def invalidate(self) -> None:
        """Forget everything cached and give its memory back.

        Call it when weights changed behind autograd's back, or are about to change.
        """
        self._allocate(0, 0)

    @torch.inference_mode()
    def last_hidden(self, tokens: Ints, rows: Ints, device: torch.device) -> tuple[Tensor, Ints]:
        """Return the last layer's state at the last token of each row.

        Args:
            tokens: `(n, L)` observations; every row holds at least one token.
            rows: `(n,)` distinct names of the rows, stable from call to call: a row is compared
                with what the row of the same name showed last.
            device: where the model is.

        Returns:
            `(n, d)` states and the `(n,)` columns of the last tokens.
        """
        weights = self._fingerprint()
        if weights != self.weights:
            self.invalidate()
            self.weights = weights
        self._seat(rows, tokens.shape[1])
        n = len(rows)
        filled = tokens != self._pad_id  # (n, L)
        start = filled.argmax(axis=1)  # (n,) first token
        last = tokens.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)  # (n,)
        cached = self._cached[:n]
        differs = tokens != self._seen[:n]
        common = np.where(differs.any(axis=1), differs.argmax(axis=1), tokens.shape[1])
        # A row that changed within what is cached was reset (or went back); one that is more than
        # a token ahead got a reply. Both catch up, together, to the state just before their last
        # token; then all rows take that one step in a single batch.
        behind = np.flatnonzero((common < cached) | (cached < last) | (cached == 0))
        valid = np.minimum(common, cached)
        self._seen[:n] = tokens
        self._cached[:n] = 0  # stays so if the model raises below
        if len(behind):
            first = np.maximum(valid, start)[behind]
            self._catch_up(behind, tokens[behind], filled[behind], first, last[behind], device)
        hidden = self._step(tokens, filled, start, last, device)
        self._cached[:n] = last + 1
        return hidden, last

    def _seat(self, rows: Ints, columns: int) -> None:
        """Make cache row i the one that is named `rows[i]`."""
        if np.array_equal(rows, self._ids) and columns == self._seen.shape[1]:
            return
        if len(rows) > len(self._seen) or columns != self._seen.shape[1]:
            self._allocate(len(rows), columns)
            self._ids = rows.copy()
            return
        seats = np.full(max(int(rows.max()), int(self._ids.max(initial=0))) + 1, -1)
        seats[self._ids] = np.arange(len(self._ids))
        source = seats[rows]
        known = source >= 0
        source[~known] = 0
        if known.any():
            self._seen[: len(rows)] = self._seen[source]
            self._cached[: len(rows)] = np.where(known, self._cached[source], 0)
            if self._bias is not None:
                (index,) = upload(self._bias.device, source)
                self._bias[: len(rows)] = self._bias[index]
                for layer in self._cache.layers:
                    cast(SlotLayer, layer).move_rows(index)
        else:
            self._cached[: len(rows)] = 0
        self._ids = rows.copy()

    def _catch_up(
        self,
        rows: Ints,
        tokens: Ints,
        filled: NDArray[np.bool_],
        first: Ints,
        last: Ints,
        device: torch.device,
    ) -> None:
        """Compute columns `first[i] .. last[i] - 1` of `rows[i]` and rebuild their masks."""
        low, high = int(filled.argmax(axis=1).min()), int(last.max())
        usable = filled & (np.arange(tokens.shape[1]) < last[:, None])  # (b, L)
        width = max(int((last - first).max()), 0)
        # Right-aligned: rows with less to do feed some of what they have again, which rewrites
        # the same numbers.
        fed = np.maximum(last[:, None] - width + np.arange(width), 0)  # (b, q)
        ids = np.take_along_axis(np.where(filled, tokens, self._fill_id), fed, axis=1)
        order = np.maximum(filled.cumsum(axis=1) - 1, 0)
        positions = np.take_along_axis(order, fed, axis=1)
        at, seen, ids_there, where, slots = upload(device, rows, usable, ids, positions, fed)
        bias, visible = self._bias_on(device), seen.bool()
        bias[at] = _additive(visible, bias.dtype)
        if width == 0:
            return
        key = torch.arange(low, high, device=device)
        visible = visible[:, None, low:high] & (key <= slots[:, :, None])  # (b, q, K)
        visible |= key == slots[:, :, None]  # an empty column sees itself: a softmax needs a term
        plan = self._plan
        everyone = len(rows) == len(self._ids)
        plan.rows = None if everyone else at
        plan.slots = int(fed[0, 0]) if bool((fed == fed[0]).all()) else slots
        plan.low, plan.high = low, high
        self._run(ids_there, where, _additive(visible, bias.dtype)[:, None])

    def _step(
        self,
        tokens: Ints,
        filled: NDArray[np.bool_],
        start: Ints,
        last: Ints,
        device: torch.device,
    ) -> Tensor:
        """Feed the last token of every row; return its state, `(n, d)`."""
        n, plan, bias = len(tokens), self._plan, self._bias_on(device)
        ids = np.take_along_axis(tokens, last[:, None], axis=1)  # (n, 1)
        positions = np.count_nonzero(filled, axis=1)[:, None] - 1
        ids_there, where, slots = upload(device, ids, positions, last[:, None])
        plan.rows, plan.low, plan.high = None, int(start.min()), int(last.max()) + 1
        if bool((last == last[0]).all()):
            plan.slots = int(last[0])
            bias[:n, plan.slots] = 0.0
        else:
            plan.slots = slots
            bias[:n].scatter_(1, slots, 0.0)
        return self._run(ids_there, where, bias[:n, None, None, plan.low : plan.high])

    def _run(self, ids: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        output = self._backbone(
            input_ids=ids,
            attention_mask=bias,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        return cast(Tensor, output.last_hidden_state[:, -1])

    def _bias_on(self, device: torch.device) -> Tensor:
        if self._bias is None or self._bias.device != device:
            dtype = cast(torch.dtype, getattr(self._backbone, "dtype", torch.float32))
            shape = self._seen.shape
            self._bias = _additive(torch.zeros(shape, dtype=torch.bool, device=device), dtype)
        return self._bias


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where visible and the lowest number elsewhere, as every attention code adds it."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)
