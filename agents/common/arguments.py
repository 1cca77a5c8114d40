"""Which arguments an algorithm takes, where each is documented, and how an unknown one is refused.

A class says what is its own and hands the rest on, typed by a `TypedDict`:

```python
def __init__(self, policy, env, tau: float = 0.7, **kwargs: Unpack[RecordedArguments]) -> None: ...
```

`complete` gives it the signature and the docstring of all that it takes: its own arguments, then
those of the next classes in line which the `TypedDict` names (all of them, where `**kwargs` has no
such type). An argument is documented once, by the class or the `TypedDict` that owns it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from text_envs.episodes.errors import unexpected

__all__ = ["complete", "parameters_of", "refuse_unknown"]

_SETUP = "_init_setup_model"  # Stable-Baselines3's; other names of this kind are between classes
_OWN_SIGNATURE, _OWN_DOC = "__own_signature__", "__own_doc__"
_ENTRY = re.compile(r"^    (\*{0,2}\w+): ")
_UNPACKED = re.compile(r"^(?:\w+\.)?Unpack\[(.+)\]$")
_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)

Parameters = dict[str, inspect.Parameter]


def parameters_of(cls: type) -> Parameters:
    """Return the parameters of a class by name, those that `**kwargs` hands on included."""
    inits = [vars(owner)["__init__"] for owner in cls.__mro__ if "__init__" in vars(owner)]
    return _merged(inits)


def refuse_unknown(cls: type, names: Iterable[str]) -> None:
    """Raise a TypeError for the first of `names` that is no argument of `cls`, with the nearest."""
    known = parameters_of(cls)
    for name in names:
        if name not in known:
            accepted = [other for other in known if not other.startswith("_")]
            raise unexpected(f"{cls.__name__}.__init__", name, accepted)


def complete(cls: type) -> None:
    """Give a class the signature and the docstring of all that it takes."""
    parameters = parameters_of(cls)
    cls.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    own_init = vars(cls).get("__init__")
    if own_init is not None:
        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        own_init.__signature__ = inspect.Signature([this, *parameters.values()])
    own_doc = vars(cls).get("__doc__")
    setattr(cls, _OWN_DOC, own_doc)
    if own_doc:
        cls.__doc__ = _documented(cls, inspect.cleandoc(own_doc), parameters)


# -- signatures ----------------------------------------------------------------------------------


def _merged(inits: list[Callable[..., None]]) -> Parameters:
    signature = _own_signature(inits[0])
    found = list(signature.parameters.values())[1:]  # without self
    own = {p.name: p for p in found if p.kind not in _VARIABLE}
    rest = next((p for p in found if p.kind is p.VAR_KEYWORD), None)
    if rest is None or len(inits) == 1:
        return own
    further = _merged(inits[1:])
    named = _named_by(rest, inits[0])
    if named is None:
        names = [n for n in further if not n.startswith("_") or n == _SETUP]
    else:
        names = [n for n in named if n in further]
    for name in names:
        if name not in own:
            own[name] = further[name].replace(kind=inspect.Parameter.KEYWORD_ONLY)
    return own


def _own_signature(init: Callable[..., None]) -> inspect.Signature:
    """Return what stands in the definition, although `complete` made the function show more."""
    signature = getattr(init, _OWN_SIGNATURE, None)
    if signature is None:
        signature = inspect.signature(init)
        if inspect.isfunction(init):
            setattr(init, _OWN_SIGNATURE, signature)
    return signature


def _typed_dict(rest: inspect.Parameter, init: Callable[..., None]) -> Any:
    """Return the `TypedDict` that `**kwargs: Unpack[...]` names, or None."""
    match = _UNPACKED.match(str(rest.annotation))
    if match is None:
        return None
    scope: Any = vars(sys.modules.get(init.__module__, inspect))
    for part in match.group(1).split("."):
        scope = scope.get(part) if isinstance(scope, Mapping) else getattr(scope, part, None)
    return scope


def _named_by(rest: inspect.Parameter, init: Callable[..., None]) -> list[str] | None:
    typed = _typed_dict(rest, init)
    return None if typed is None else list(typed.__annotations__)


# -- docstrings ----------------------------------------------------------------------------------


def _documented(cls: type, doc: str, parameters: Parameters) -> str:
    """Return a docstring whose section `Args` has an entry for each parameter."""
    before, own, after = _split(doc, "Args:")
    entries: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        entries |= _typed_entries(owner)
    for owner in reversed(cls.__mro__[1:]):
        inherited = vars(owner).get(_OWN_DOC) or ""
        entries |= _split(inspect.cleandoc(inherited), "Args:")[1]
    entries |= own
    listed = [entries[name] for name in parameters if name in entries]
    if not listed:
        return doc
    parts = [before, "Args:\n" + "\n".join(listed), after]
    return "\n\n".join(part for part in parts if part) + "\n"


def _typed_entries(owner: type) -> dict[str, str]:
    """Return what the `TypedDict` of a class's `**kwargs` says of its keys."""
    init = vars(owner).get("__init__")
    if not inspect.isfunction(init):
        return {}
    for parameter in _own_signature(init).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            return _typed_docs(_typed_dict(parameter, init))
    return {}


def _typed_docs(typed: Any) -> dict[str, str]:
    entries: dict[str, str] = {}
    for base in getattr(typed, "__orig_bases__", ()):
        entries |= _typed_docs(base) if hasattr(base, "__annotations__") else {}
    doc = getattr(typed, "__doc__", None)
    return entries | (_split(inspect.cleandoc(doc), "Attributes:")[1] if doc else {})


def _split(doc: str, header: str) -> tuple[str, dict[str, str], str]:
    """Return what stands before a section, its entries by name, and what stands behind it.

    Where there is no such section, it belongs before "Raises:", or to the end.
    """
    lines = doc.splitlines()
    if header not in lines:
        at = lines.index("Raises:") if "Raises:" in lines else len(lines)
        return "\n".join(lines[:at]).rstrip(), {}, "\n".join(lines[at:]).strip()
    start = lines.index(header)
    stop = start + 1
    while stop < len(lines) and (not lines[stop] or lines[stop].startswith("    ")):
        stop += 1
    entries: dict[str, str] = {}
    name = ""
    for line in lines[start + 1 : stop]:
        match = _ENTRY.match(line)
        if match is not None:
            name = match.group(1)
            entries[name] = line
        elif name and line.strip():
            entries[name] += "\n" + line
    return "\n".join(lines[:start]).rstrip(), entries, "\n".join(lines[stop:]).strip()
