"""Between host and accelerator: several arrays in one transfer, and tensors that remember theirs.

Ids, columns and masks decide the shapes of a forward pass, so the host must know them. It made them
itself, out of the environment's observations; asking the accelerator for them again would let the
host wait until everything before has been computed. `to_device` therefore leaves the host's own
array with the tensor, and `on_host` finds it there: nothing waits. On the CPU both do nothing.

Where the host still waits for an accelerator, and `tests/lm/test_transfers.py` counts it:

| when | waits | why |
|---|---|---|
| a token | 1 | the environment needs the ids (`download`); the new observations go up (`upload`) |
| the forward and backward pass of a minibatch | 0 | |
| a micro-batch's loss | 1 | no step may be taken on one that is not finite |
| a minibatch with `target_kl` | 1 | whether to go on |
| a roll-out, an update | as many as metrics | what is logged |

Encoder-decoder models ask for the lengths of their prompts in addition, DPG for the texts that have
no support, and values of recorded episodes for the states that are needed: a fixed number a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "download",
    "last_columns",
    "on_host",
    "places_of",
    "remember",
    "rows_at",
    "spread",
    "taken",
    "to_device",
    "upload",
]

_COPY = "_host_copy"


def upload(device: torch.device, *arrays: NDArray[Any]) -> list[Tensor]:
    """Return integer arrays as int64 tensors on `device`, of any shapes, in one transfer."""
    if device.type == "cpu":
        return [torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64)) for a in arrays]
    packed = torch.from_numpy(np.concatenate([a.ravel() for a in arrays]).astype(np.int64))
    moved = _send(packed, device)
    parts = moved.split([a.size for a in arrays])
    return [part.view(a.shape) for part, a in zip(parts, arrays, strict=True)]


def download(ids: Tensor, *numbers: Tensor) -> list[NDArray[Any]]:
    """Return ids `(n,)` as int64 and float tensors `(n,)` as float32 arrays, in one transfer.

    The ids travel as the bits of a float32, which a copy does not touch.

    >>> download(torch.tensor([49_151, 2]), torch.tensor([0.5, -1.0]))
    [array([49151,     2]), array([ 0.5, -1. ], dtype=float32)]
    """
    bits = [ids.int().view(torch.float32), *(x.float() for x in numbers)]
    first, *others = torch.stack(bits).cpu().numpy()
    return [first.view(np.int32).astype(np.int64), *others]


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of ids or a mask on `device`; one from the CPU is remembered."""
    moved = tensor.to(device)
    if tensor.device.type == "cpu" and moved.device.type != "cpu":
        remember(moved, tensor.numpy())
    return moved


def remember(tensor: Tensor, array: NDArray[Any]) -> Tensor:
    """Leave with a tensor the host's array of the same numbers; `array` must not be changed."""
    if tensor.device.type != "cpu" and not tensor.is_inference():  # those count no changes
        setattr(tensor, _COPY, (array, tensor._version))
    return tensor


def on_host(*tensors: Tensor) -> list[NDArray[Any]]:
    """Return the numbers of integer or boolean tensors: at most one transfer for all of them.

    What `to_device` or `remember` left with a tensor is taken, unless that was changed since.
    """
    known = [_known(tensor) for tensor in tensors]
    asked = [i for i, array in enumerate(known) if array is None]
    if asked:
        flat = torch.cat([tensors[i].detach().flatten().long() for i in asked]).cpu().numpy()
        ends = np.cumsum([tensors[i].numel() for i in asked])[:-1]
        for i, part in zip(asked, np.split(flat, ends), strict=True):
            array = part.reshape(tensors[i].shape)
            known[i] = array.astype(bool) if tensors[i].dtype == torch.bool else array
            remember(tensors[i], cast(NDArray[Any], known[i]))
    return cast("list[NDArray[Any]]", known)


def places_of(mask: Tensor) -> Tensor:
    """Return where a mask is True in its flat order, `(M,)` int64, as `nonzero` without a wait."""
    (host,) = on_host(mask)
    (places,) = upload(mask.device, np.flatnonzero(host))
    return places


def last_columns(actor: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what an `ActionLM` encodes to know the states after observations `(n, L)`.

    Observations made complete, the columns `(n, 1)` of their last tokens, and a mask of all of
    these; all on the host, where the shapes of a pass are decided.
    """
    (shown,) = on_host(tokens)
    shown = actor.complete(shown)
    last = shown.shape[1] - 1 - (shown != actor.pad_id)[:, ::-1].argmax(axis=1)
    at = torch.from_numpy(last[:, None])
    return torch.from_numpy(shown), at, torch.ones_like(at, dtype=torch.bool)


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """Return rows `index` `(M,)` of `x` `(N, d)`; the gradient is faster than that of indexing."""
    return x.gather(0, index[:, None].expand(-1, x.shape[1]))


def taken(x: Tensor, mask: Tensor) -> Tensor:
    """Return `x[mask]` `(M,)` for `x` of the mask's shape, without a wait."""
    return x.flatten()[places_of(mask)]


def spread(values: Tensor, places: Tensor, shape: Sequence[int]) -> Tensor:
    """Return `(..., *shape)` with `values` `(..., M)` at flat `places` `(M,)` and 0 elsewhere."""
    lead = values.shape[:-1]
    flat = values.new_zeros(*lead, math.prod(shape))
    return flat.scatter(-1, places.expand(values.shape), values).view(*lead, *shape)


def _known(tensor: Tensor) -> NDArray[Any] | None:
    if tensor.device.type == "cpu":
        return tensor.detach().numpy()
    array, version = getattr(tensor, _COPY, (None, None))
    return array if array is not None and version == tensor._version else None


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    # From pinned memory the copy is queued like a kernel; from any other the host waits for it.
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
