"""What may be changed on an algorithm or a policy that is made, and what is refused then.

A class declares the first as `Setting`s, checked whenever they are set and, by `changed`, brought
to everything that depends on them; it names the second in `fixed`, each an error with the remedy:

```python
class Mine(OfflineAlgorithm):
    fixed = frozenset({"top"})
    tau: Any = Setting(lambda x: 0 < x < 1, "in (0, 1)")
```
"""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Callable
from typing import Any, ClassVar, cast

import numpy as np

from agents.common.checks import require

__all__ = [
    "Guarded",
    "PolicySetting",
    "Setting",
    "counting",
    "is_live",
    "is_number",
    "unlocked",
    "weighing",
]

_FINISHED = "_finished"
_ABSENT = object()


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, which a boolean is not."""
    real = isinstance(value, int | float | np.integer | np.floating)
    return real and not isinstance(value, bool) and bool(np.isfinite(value))


class Setting:
    """An attribute that may change at any time, and is saved as it then is.

    Args:
        fine: whether a value can be used; a TypeError means no.
        accepted: words for it.
    """

    name: str

    def __init__(self, fine: Callable[[Any], Any], accepted: str) -> None:
        self.fine, self.accepted = fine, accepted

    def __set_name__(self, owner: type, name: str) -> None:
        """Remember under which name."""
        self.name = name

    def place(self, owner: Any) -> dict[str, Any]:
        """Return where the value is kept."""
        found: dict[str, Any] = vars(owner)
        return found

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Return the present value."""
        if owner is None:
            return self
        try:
            return self.place(owner)[self.name]
        except KeyError:
            raise AttributeError(f"{type(owner).__name__} has no {self.name!r} yet") from None

    def __set__(self, owner: Any, value: Any) -> None:
        """Change it, if it can be used; and what depends on it."""
        require(self.name, value, lambda x: bool(self.fine(x)), self.accepted)
        place = self.place(owner)
        before = place.get(self.name, _ABSENT)
        place[self.name] = value
        if _FINISHED in vars(owner):
            try:
                owner.changed(self.name)
            except BaseException:
                place[self.name] = before
                raise


class PolicySetting(Setting):
    """A setting of a policy, kept among its arguments."""

    def place(self, owner: Any) -> dict[str, Any]:
        """Return the policy's arguments."""
        return cast(dict[str, Any], owner.arguments)


def is_live(owner: Any, name: str) -> bool:
    """Return whether an attribute, which may have been changed, knows best what `name` is now."""
    return isinstance(inspect.getattr_static(type(owner), name, None), property | Setting)


def weighing() -> Setting:
    """Return the setting of a weight in a loss or a reward."""
    return Setting(lambda x: is_number(x) and x >= 0, "at least 0 and finite")


def counting(least: int = 1, *, none: bool = False) -> Setting:
    """Return the setting of a whole number, or None if allowed."""

    def fine(value: Any) -> bool:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return (none and value is None) or (whole and value >= least)

    return Setting(fine, f"{'None or ' if none else ''}an integer of at least {least}")


class _Finished(ABCMeta):
    """Notes when an object is made, after the last of its constructors."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if made.is_whole():
            made.finish()
        return made


class Guarded(metaclass=_Finished):
    """Something whose attributes are settings, or fixed once it is made."""

    fixed: ClassVar[frozenset[str]] = frozenset()
    remedies: ClassVar[dict[str, str]] = {}

    def is_whole(self) -> bool:
        """Return whether the constructor made all of it."""
        return True

    def finish(self) -> None:
        """Refuse from now on what is fixed."""
        vars(self)[_FINISHED] = True

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""

    def remedy(self, name: str) -> str:
        """Return what to do instead of setting something that is fixed."""
        for kind in type(self).__mro__:
            if name in (found := vars(kind).get("remedies", {})):
                return str(found[name])
        return f"{type(self).__name__}(..., {name}=...)"

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, unless it is fixed by now."""
        if _FINISHED in vars(self) and name in _fixed(type(self)):
            raise AttributeError(
                f"{name} cannot be set once {type(self).__name__} is made, because others were "
                f"made from it; accepted: {self.remedy(name)}"
            )
        super().__setattr__(name, value)


class unlocked:
    """While in this context, what is fixed may be set: by who sees to all that depends on it."""

    def __init__(self, owner: Guarded) -> None:
        self.owner = owner

    def __enter__(self) -> None:
        """Unlock."""
        self.was = vars(self.owner).pop(_FINISHED, None)

    def __exit__(self, *error: object) -> None:
        """Lock again."""
        if self.was:
            self.owner.finish()


def _fixed(cls: type) -> frozenset[str]:
    own = vars(cls).get("_all_fixed")
    if own is None:
        own = frozenset().union(*(vars(kind).get("fixed", ()) for kind in cls.__mro__))
        own -= {n for n in own for k in cls.__mro__ if isinstance(vars(k).get(n), Setting)}
        cls._all_fixed = own  # type: ignore[attr-defined]
    return own
