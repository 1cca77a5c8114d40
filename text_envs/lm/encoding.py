"""Hidden states of whole sequences in one forward pass, with little computed for padding.

Three things would otherwise be computed for nothing: the padding in front of short prompts, the
padding behind short texts, and the scores of columns at which nobody acted. Rows are moved to the
left until no padding stands in front (causal attention then needs no mask at all), sequences of
similar length go through the model together, and only the states asked for are returned.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from text_envs.lm.checkpointing import recomputing

__all__ = ["encode", "length_groups"]

# What one more forward pass costs, in tokens of a pass: deciding on groups weighs it up.
_PASS_COST = 128
_MAX_GROUPS = 4


def encode(
    backbone: nn.Module,
    tokens: Tensor,
    columns: Tensor,
    mask: Tensor,
    *,
    pad_id: int,
    fill_id: int,
) -> Tensor:
    """Return the last layer's states at chosen columns.

    Args:
        backbone: the transformer without its output layer.
        tokens: `(B, L)` int64 observations; every row holds a token.
        columns: `(B, T)` int64 columns that hold a token.
        mask: bool `(B, T)`, which of `columns` to return.
        pad_id: marks empty columns.
        fill_id: any id the model knows, to fill up rows on the right.

    Returns:
        `(M, d)` in row-major order of the mask.
    """
    filled = tokens != pad_id  # (B, L)
    order = filled.cumsum(dim=1) - 1  # (B, L) the position of each column's token
    index = torch.where(mask, order.gather(1, columns), 0)  # (B, T)
    lengths = index.max(dim=1).values + 1  # (B,) later tokens influence nothing asked for
    number = mask.flatten().cumsum(dim=0).reshape(mask.shape) - 1  # (B, T) place in the result
    states, places = [], []
    for rows in length_groups(lengths.cpu().numpy()):
        at = torch.from_numpy(rows).to(tokens.device)
        width = int(lengths[at].max())
        row, column = (filled[at] & (order[at] < width)).nonzero(as_tuple=True)
        ids = tokens.new_full((len(at), width), fill_id)
        ids[row, order[at][row, column]] = tokens[at][row, column]
        with recomputing(backbone):
            hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state  # (b, n, d)
        chosen = mask[at]
        row = torch.arange(len(at), device=tokens.device)[:, None].expand_as(chosen)[chosen]
        states.append(hidden[row, index[at][chosen]])
        places.append(number[at][chosen])
    if len(states) == 1:
        return cast(Tensor, states[0])
    return torch.cat(states)[torch.cat(places).argsort()]


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
