"""Optimisers that remember weights in float32 where the model has them in bfloat16.

A bfloat16 number has 8 significant bits: a weight of 1 moves by steps of 1/128 or not at all. A
step of Adam is about the learning rate; at 1e-6 it is rounded away for nearly every weight. Here
the optimiser keeps each such weight in float32, updates that one, and gives the model the rounded
value, so that small steps add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["is_low", "kind_of", "with_master_weights"]

_LOW = (torch.bfloat16, torch.float16)
_MASTER = "master"
_MADE: dict[type[torch.optim.Optimizer], type[torch.optim.Optimizer]] = {}


def is_low(parameter: Tensor) -> bool:
    """Return whether small steps would be rounded away."""
    return parameter.dtype in _LOW


def kind_of(optimizer: torch.optim.Optimizer) -> type[torch.optim.Optimizer]:
    """Return the class of torch that an optimiser is a form of, fused or with master weights."""
    kind = getattr(optimizer, "without_master", type(optimizer))
    return cast("type[torch.optim.Optimizer]", getattr(kind, "plain", kind))


def with_master_weights(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return the class of optimisers of a kind that keep float32 weights of bfloat16 parameters.

    They lie in the state of each parameter, as moments do (which are float32 as well), so that
    copies and checkpoints have them. Whoever changes a parameter by other means is obeyed: the
    weight that no longer rounds to its parameter is taken from it anew.
    """
    if kind not in _MADE:

        class Master(kind):  # type: ignore[valid-type, misc]
            without_master = kind

            @torch.no_grad()
            def step(self, closure: Any = None) -> Any:
                """Take a step in float32 and round the result."""
                if closure is not None:
                    raise ValueError("optimisers with master weights take no closure")
                with _in_float32(self, gradients=True):
                    return super().step()

            def load_state_dict(self, state_dict: dict[str, Any]) -> None:
                """Take over a state; its moments stay float32."""
                with torch.no_grad(), _in_float32(self, gradients=False):
                    super().load_state_dict(state_dict)

            def __reduce_ex__(self, protocol: Any) -> Any:
                """Return how a copy is made: classes made on the fly have no name of their own."""
                return _blank, (kind,), self.__getstate__()

        Master.__name__ = Master.__qualname__ = f"{kind.__name__}WithMasterWeights"
        _MADE[kind] = Master
    return _MADE[kind]


@contextmanager
def _in_float32(optimizer: torch.optim.Optimizer, *, gradients: bool) -> Iterator[None]:
    """Let low-precision parameters be their master weights, with gradients if asked for."""
    lent = []
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        if is_low(p) and (p.grad is not None or not gradients):
            low, gradient = p.data, p.grad
            p.grad = None
            p.data = _master(optimizer.state.get(p, {}).get(_MASTER), low)
            p.grad = gradient.float() if gradients else None
            lent.append((p, low, gradient))
    try:
        yield
    finally:
        for p, low, gradient in lent:
            master, p.grad = p.data, None
            p.data, p.grad = low, gradient
            if gradients:
                p.copy_(master)  # in place, so that caches notice
                optimizer.state[p][_MASTER] = master


def _master(known: Tensor | None, low: Tensor) -> Tensor:
    """Return float32 weights that round to `low`: the known ones wherever they do."""
    if known is None:
        return low.float()
    rounded = known.to(low.dtype)
    return known if torch.equal(rounded, low) else torch.where(rounded == low, known, low.float())


def _blank(kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    cls = with_master_weights(kind)
    return cls.__new__(cls)
