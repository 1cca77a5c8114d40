"""A pretended accelerator: numbers lie in the memory of the CPU, and every wait for it is counted.

Tensors report the device "meta", so that code takes the way it takes on a GPU: what would need
their numbers on the host fails, unless it asks for a transfer.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
# What a GPU can only answer after all it was asked before: the shape of the result, or a number.
_WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
    aten.is_nonzero.default, aten.item.default, aten.equal.default,
    aten._unique2.default, aten.unique_dim.default,
}  # fmt: skip
_MOVES = (aten._to_copy, aten.to)  # the second in inference mode, which takes nothing apart


class Remote(torch.Tensor):
    """A tensor of the pretended device around one of the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Remote:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of Accelerator()")


class Accelerator(TorchDispatchMode):
    """Within it, `.to("meta")` uploads, and waits and transfers are counted in `seen`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        there = _any_remote((args, kwargs))
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == "meta":
            kwargs["device"] = torch.device("cpu")
            self.seen["upload"] += func.overloadpacket in _MOVES and not there
            there = True
        elif wanted is not None and there:
            self.seen["download"] += 1
            there = False
        if func is aten.copy_.default:
            to, come_from = (isinstance(x, Remote) for x in args[:2])
            if to != come_from:
                self.seen["upload" if to else "download"] += 1
        if there and (func in _WAITS or _by_mask(func, args)):
            self.seen["wait"] += 1
            self.seen[f"wait for {func}"] += 1
        result = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        if not func._schema.returns:  # in place, of many tensors
            return None
        if func._schema.name[-1] == "_" and func._schema.name[-2:] != "__":
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        return tree_map(_remote, result) if there else result

    @property
    def waits(self) -> int:
        """Times that the host would have had to wait."""
        return self.seen["wait"] + self.seen["download"]


def _remote(x: Any) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    with torch.inference_mode(False):  # or autograd asks a view of it for a version
        return Remote(x)


def _bare(x: Any) -> Any:
    return x.inner if isinstance(x, Remote) else x


def _any_remote(tree: Any) -> bool:
    found = []
    tree_map(lambda x: found.append(x) if isinstance(x, Remote) else None, tree)
    return bool(found)


def _by_mask(func: Any, args: Any) -> bool:
    if func not in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        return False
    return any(i is not None and i.dtype == torch.bool for i in args[1])
