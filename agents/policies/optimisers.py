"""The optimiser of a policy, in the form that costs least.

The fused forms of torch have one kernel for a whole step. The loops over parameters that they
replace take five times as long on a processor, and hold copies of the largest matrix meanwhile. But
these kernels do not say that the weights have changed, as every other operation in place does, and
what a model has cached of a text would be taken for valid: here they say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from agents.common.master_weights import is_low, with_master_weights

__all__ = ["FusedAdam", "FusedAdamW", "FusedSGD", "make_optimizer"]

_FORMS = ("capturable", "differentiable", "foreach", "fused")


def make_optimizer(
    kind: type[torch.optim.Optimizer],
    parameters: Iterable[Tensor],
    learning_rate: float,
    arguments: dict[str, Any],
) -> torch.optim.Optimizer:
    """Return an optimiser; a fused one where torch has it and nothing else is asked for.

    Parameters of low precision get master weights, see `agents.common.master_weights`.

    Args:
        kind: the class.
        parameters: what it moves.
        learning_rate: at the start.
        arguments: further ones; naming a form, such as `{"fused": False}`, decides it.
    """
    given = list(parameters)
    usable = all(p.is_floating_point() for p in given)
    made: Any = kind
    if usable and arguments.get("fused", not any(form in arguments for form in _FORMS)):
        made = _FUSED.get(kind, kind)
    if any(is_low(p) for p in given):
        made = with_master_weights(made)
    return made(given, lr=learning_rate, **arguments)  # type: ignore[no-any-return]


class _Telling:
    """Marks the parameters as changed after each step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"fused": True, **kwargs})
        self._tell()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self._tell()  # a copy has lost what was registered

    def _tell(self) -> None:
        if _mark_changed not in self._optimizer_step_post_hooks.values():  # type: ignore[attr-defined]
            self.register_step_post_hook(_mark_changed)  # type: ignore[attr-defined]


class FusedAdam(_Telling, torch.optim.Adam):
    """Adam in one kernel."""

    plain = torch.optim.Adam


class FusedAdamW(_Telling, torch.optim.AdamW):
    """AdamW in one kernel."""

    plain = torch.optim.AdamW


class FusedSGD(_Telling, torch.optim.SGD):
    """SGD in one kernel."""

    plain = torch.optim.SGD


_FUSED: dict[type, type] = {
    torch.optim.Adam: FusedAdam,
    torch.optim.AdamW: FusedAdamW,
    torch.optim.SGD: FusedSGD,
}


def _mark_changed(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                # Nothing is written, but the tensors share the counter of changes.
                parameter.detach().unsqueeze(0)[:0].zero_()
