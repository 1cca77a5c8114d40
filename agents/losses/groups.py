r"""Baselines from several texts with one start: pure functions on `(G, k)` rewards.

G starts, k texts of each. A text's siblings tell what its start is worth without a value function.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["group_normalised", "leave_one_out"]

# A deviation this small beside the rewards themselves is that of float32.
_ROUNDING = 2.0 * torch.finfo(torch.float32).eps


def leave_one_out(rewards: Tensor) -> Tensor:
    r"""Return $A_i = R_i - \frac{1}{k-1} \sum_{j \ne i} R_j$, `(G, k)`.

    The baseline of a text does not depend on that text, so the policy gradient stays unbiased.

    Args:
        rewards: `(G, k)` with k at least 2.

    Raises:
        ValueError: there is nobody to leave in.

    >>> leave_one_out(torch.tensor([[1.0, 2.0, 6.0]])).tolist()
    [[-3.0, -1.5, 4.5]]
    """
    k = _group_size(rewards)
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (k / (k - 1))


def group_normalised(rewards: Tensor, eps: float = 1e-8, *, divide: bool = True) -> Tensor:
    r"""Return $A_i = (R_i - \mathrm{mean}_j R_j) / (\mathrm{std}_j R_j + \epsilon)$, `(G, k)`.

    Args:
        rewards: `(G, k)` with k at least 2.
        eps: added to the standard deviation (of k - 1 degrees of freedom). Where that is no more
            than float32 rounds, the texts are tied, and all A are 0.
        divide: False leaves the deviation out: dividing by it gives starts on which all texts are
            almost equally good the same weight as the others.

    Raises:
        ValueError: k is 1.

    >>> group_normalised(torch.tensor([[0.0, 1.0, 2.0]]), eps=0.0).tolist()
    [[-1.0, 0.0, 1.0]]
    """
    _group_size(rewards)
    exact = rewards.double()  # in float32 the mean of equal numbers may be none of them
    centred = exact - exact.mean(dim=1, keepdim=True)
    if divide:
        std = exact.std(dim=1, keepdim=True)
        # Texts that differ by rounding only are equally good, and division would say otherwise.
        tied = std <= _ROUNDING * exact.abs().amax(dim=1, keepdim=True)
        centred = torch.where(tied, 0.0, centred / (std + eps))
    return centred.to(rewards.dtype)


def _group_size(rewards: Tensor) -> int:
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards must be (starts, texts of each start) with at least 2 texts, got shape "
            f"{tuple(rewards.shape)}"
        )
    return int(rewards.shape[1])
