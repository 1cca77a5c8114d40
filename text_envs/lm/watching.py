"""Whether weights have changed since a cache was filled, at a price that fits a token.

PyTorch counts the in-place changes of each tensor apart, so a complete answer reads a counter a
parameter: 0.1 ms of the host for a model of 30 layers. That is nothing beside a prompt and much
beside a token. `held` says that a roll-out is going on, in which weights are not expected to
change. The complete check is then made at its beginning and its end, after every step of any
optimiser (a global hook counts them), and whenever a glance at a few parameters a token finds one
changed. The glance goes around: what changes all weights by hand is seen at the next token, what
changes a single tensor after as many tokens as a round takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

__all__ = ["WeightWatch", "held"]

_GLANCES = 8


class _Steps:
    """Counts the steps of all optimisers of the process."""

    count = 0

    def __call__(self, *_: Any) -> None:
        self.count += 1


_steps = _Steps()
register_optimizer_step_post_hook(_steps)


class WeightWatch:
    """A number that changes with every in-place change of any parameter, or of its memory.

    Args:
        parameters: what is watched.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._all = tuple(parameters)
        self._numbers: list[int] = []
        self._mark, self._held, self._next, self._at_step = 0, 0, 0, -1

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: the parameters, which lie elsewhere there."""
        return {"parameters": self._all}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Watch the copied parameters, from now on."""
        self.__init__(**state)  # type: ignore[misc]

    def mark(self) -> int:
        """Return the number; while `held`, the last one if nothing has come to notice."""
        if not self._held or self._at_step != _steps.count or self._something_changed():
            self._at_step = _steps.count
            self._numbers = [_number(p) for p in self._all]
            self._mark = sum(self._numbers)
        return self._mark

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Look at a few parameters each time only, until the end."""
        if not self._held:
            self.mark()
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def _something_changed(self) -> bool:
        count, start = len(self._all), self._next
        self._next = (start + _GLANCES) % max(count, 1)
        around = range(start, start + min(_GLANCES, count))
        return any(_number(self._all[i % count]) != self._numbers[i % count] for i in around)


@contextlib.contextmanager
def held(policy: Any) -> Iterator[None]:
    """Expect no change of the weights of any `ActionLM` in `policy`, see the module."""
    modules = policy.modules() if isinstance(policy, nn.Module) else ()
    watches = {id(w): w for m in modules if isinstance(w := vars(m).get("_watch"), WeightWatch)}
    with contextlib.ExitStack() as stack:
        for watch in watches.values():
            stack.enter_context(watch.hold())
        yield


def _number(parameter: Tensor) -> int:
    return parameter._version + parameter.data_ptr()
