"""Models that share what none of them trains: one base, each with adapters of its own.

A model that learns through adapters never changes its base. A copy of it (the reference of a KL, a
value trunk, a target, a proposal) therefore needs other adapters only: `shared_copy` copies
everything but the base's parameters, which both hold. Each has its own modules, caches and modes,
so that nothing has to be switched on and off between two passes, or put back before a backward
pass.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from text_envs.lm.rows import LearntRows, count_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "Base",
    "SharedReference",
    "base_names",
    "base_parameters",
    "base_of",
    "describe_base",
    "load_own_state",
    "own_state",
    "shared_copy",
    "shares_base",
    "weights_mark",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_SAMPLE = 64  # numbers of each parameter that tell one base from another


@dataclass
class Base:
    """What is known of the frozen model under adapters.

    Attributes:
        name: what it was loaded by, None where nobody knows.
        checked: whether what has that name was found to have these weights.
        adapter: what peft calls the adapter that is trained; None where there is none.
    """

    name: str | None = None
    checked: bool = False
    adapter: str | None = "default"


@dataclass
class SharedReference:
    """What a reference has of its own, where its base is that of the policy.

    Attributes:
        adapters: whether it has any.
        state: see `own_state`.
    """

    adapters: bool
    state: dict[str, Tensor]


def base_of(lm: nn.Module) -> Base | None:
    """Return what is known of the base of a language model; None if all of it is its own."""
    return cast("Base | None", vars(lm).get("adapted_base"))


def base_parameters(module: nn.Module) -> dict[int, Tensor]:
    """Return the parameters of every base inside of a module, by their identity."""
    found: dict[int, Tensor] = {}
    for part in module.modules():
        if base_of(part) is not None:
            own = _own(part)
            found |= {id(p): p for p in part.parameters() if id(p) not in own}
    return found


def _own(lm: nn.Module) -> set[int]:
    """Return the identities of the parameters of adapters and learnt rows."""
    found: set[int] = set()
    for part in lm.modules():
        inside: list[Any] = [
            getattr(part, n, None) for n in getattr(part, "adapter_layer_names", ())
        ]
        inside.append(getattr(part, "modules_to_save", None))
        for adapters in inside:
            if isinstance(adapters, nn.Module):
                found |= {id(p) for p in adapters.parameters()}
        if isinstance(part, LearntRows):
            found.add(id(part.rows))
    return found


def shared_copy(module: ModuleT) -> ModuleT:
    """Return a deep copy that shares the base of every model with adapters in it."""
    return copy.deepcopy(module, dict(base_parameters(module)))


def base_names(module: nn.Module) -> set[str]:
    """Return the names in `module.state_dict()` of what belongs to a base."""
    shared = base_parameters(module)
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if id(parameter) in shared}


def shares_base(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two modules hold the same base."""
    return bool(base_parameters(one).keys() & base_parameters(other).keys())


def own_state(module: nn.Module) -> dict[str, Tensor]:
    """Return `module.state_dict()` without any base."""
    shared = base_names(module)
    return {k: v for k, v in module.state_dict().items() if k not in shared}


def load_own_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what `own_state` returned.

    Raises:
        ValueError: it is of another module.
    """
    expected = own_state(module).keys()
    if state.keys() != expected:
        raise ValueError(
            f"weights are of another module; missing {sorted(expected - state.keys())[:3]}, "
            f"unexpected {sorted(state.keys() - expected)[:3]}"
        )
    module.load_state_dict(state, strict=False)


# -- which base it is --------------------------------------------------------------------------


def describe_base(lm: PreTrainedModel) -> dict[str, Any]:
    """Return facts, JSON-plain, that tell the base of a model from other ones."""
    config: Any = lm.config
    embeddings: Any = lm.get_input_embeddings()
    learnt = isinstance(embeddings, LearntRows)
    base = base_of(lm)
    return {
        "name": None if base is None else base.name,
        "architecture": type(lm).__name__,
        "layers": getattr(config, "num_hidden_layers", None),
        "width": getattr(config, "hidden_size", None),
        "tokens": int(embeddings.weight.shape[0]) if learnt else count_rows(lm),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "weights": weights_mark(lm),
    }


@torch.no_grad()
def weights_mark(lm: nn.Module) -> int:
    """Return a checksum of some numbers of every parameter of a base.

    Of each the first half only: rows that were appended to an embedding are random, never used, and
    others whenever the model is loaded.
    """
    own, marks = _own(lm), {}
    for name, parameter in lm.named_parameters():
        if id(parameter) not in own:
            name = name.replace(".base_layer", "")
            half = parameter.detach().flatten()[: max(1, parameter.numel() // 2)]
            some = half[:: max(1, len(half) // _SAMPLE)].float().cpu().contiguous()
            marks[name] = zlib.crc32(some.numpy().tobytes())
    return zlib.crc32(repr(sorted(marks.items())).encode())
