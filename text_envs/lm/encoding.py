"""Hidden states of whole sequences in one forward pass, with little computed for padding.

Three things would otherwise be computed for nothing: the padding in front of short prompts, the
padding behind short texts, and the scores of columns at which nobody acted. Rows are moved to the
left until no padding stands in front (causal attention then needs no mask at all), sequences of
similar length go through the model together, and only the states asked for are returned.

All this is arithmetic of the host, on arrays that it has anyway; what comes out, ids and places,
goes to the accelerator in one transfer.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from text_envs.lm.checkpointing import is_checkpointing, recomputing
from text_envs.lm.pass_through import pass_through
from text_envs.lm.transfers import rows_at, upload

__all__ = ["encode", "length_groups"]

# What one more forward pass costs, in tokens of a pass: deciding on groups weighs it up.
_PASS_COST = 128
_MAX_GROUPS = 4

Ints = NDArray[np.int64]


def encode(
    backbone: nn.Module,
    tokens: Ints,
    columns: Ints,
    mask: NDArray[np.bool_],
    *,
    pad_id: int,
    fill_id: int,
    device: torch.device,
    cached: bool = False,
) -> Tensor:
    """Return the last layer's states at chosen columns.

    Args:
        backbone: the transformer without its output layer.
        tokens: `(B, L)` observations; every row holds a token.
        columns: `(B, T)` columns that hold a token.
        mask: `(B, T)`, which of `columns` to return.
        pad_id: marks empty columns.
        fill_id: any id the model knows, to fill up rows on the right.
        device: where the model is.
        cached: the model takes caches of transformers, so that `pass_through` spares a wait.

    Returns:
        `(M, d)` in row-major order of the mask.
    """
    filled = tokens != pad_id  # (B, L)
    order = filled.cumsum(axis=1) - 1  # (B, L) the position of each column's token
    index = np.where(mask, np.take_along_axis(order, columns, axis=1), 0)  # (B, T)
    lengths = index.max(axis=1) + 1  # (B,) later tokens influence nothing asked for
    number = mask.cumsum().reshape(mask.shape) - 1  # (B, T) place in the result
    batches, wanted, places = [], [], []
    for rows in length_groups(lengths):
        width = int(lengths[rows].max())
        row, column = (filled[rows] & (order[rows] < width)).nonzero()
        ids = np.full((len(rows), width), fill_id, dtype=np.int64)
        ids[row, order[rows][row, column]] = tokens[rows][row, column]
        batches.append(ids)
        wanted.append((np.arange(len(rows))[:, None] * width + index[rows])[mask[rows]])
        places.append(number[rows][mask[rows]])
    arrays = upload(device, *batches, *wanted, np.concatenate(places).argsort())
    # A layer that computes its states again takes no cache.
    lean = cached and device.type != "cpu" and not is_checkpointing(backbone)
    states = []
    count = len(batches)
    for ids_there, at in zip(arrays[:count], arrays[count:-1], strict=True):
        given = {"past_key_values": pass_through()} if lean else {}
        with recomputing(backbone):
            output = backbone(input_ids=ids_there, use_cache=False, **given)
        hidden = output.last_hidden_state  # (b, n, d)
        states.append(rows_at(hidden.flatten(0, 1), at))
    if len(states) == 1:
        return states[0]
    return rows_at(torch.cat(states), arrays[-1])


def length_groups(lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return a partition of the rows into groups of similar length, each in ascending order.

    The number of groups minimises the tokens computed, padding included, plus a charge a group.

    >>> length_groups(np.array([3, 3, 3]))
    [array([0, 1, 2])]
    >>> length_groups(np.array([500, 10] * 100))[0][:3]
    array([1, 3, 5])
    """
    by_length = np.argsort(lengths, kind="stable")
    best, groups = np.inf, [by_length]
    for count in range(1, min(_MAX_GROUPS, len(lengths)) + 1):
        parts = np.array_split(by_length, count)
        cost = sum(len(part) * int(lengths[part[-1]]) + _PASS_COST for part in parts)
        if cost < best:
            best, groups = cost, parts
    return [np.sort(group) for group in groups]
