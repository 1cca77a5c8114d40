"""Rows of different lengths in packs that are computed together."""

from __future__ import annotations

from torch import Tensor

__all__ = ["packed"]


def packed(
    lengths: Tensor, most_tokens: float | None = None, most_rows: int | None = None
) -> list[Tensor]:
    """Return packs of rows of similar length, the longest first, each a tensor of indices.

    The longest go first, so that if there is too little memory it is known at once.

    Args:
        lengths: `(B,)` tokens of each row, on the host.
        most_tokens: of a pack, padding included; a pack has one row at least. None for any number.
        most_rows: of a pack; None for any number.

    >>> [pack.tolist() for pack in packed(torch.tensor([5, 2, 9, 2]), 10)]
    [[2], [0, 1], [3]]
    >>> [pack.tolist() for pack in packed(torch.tensor([5, 2, 9, 2]), 100, 3)]
    [[2, 0, 1], [3]]
    """
    order = lengths.argsort(descending=True, stable=True)
    sizes = lengths[order].tolist()
    packs, start = [], 0
    while start < len(sizes):
        count = len(sizes) if most_rows is None else most_rows
        if most_tokens is not None:
            count = min(count, max(1, int(most_tokens // max(sizes[start], 1))))
        packs.append(order[start : start + count])
        start += count
    return packs
