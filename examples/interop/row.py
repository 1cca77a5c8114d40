"""What every recipe ends with: one line of JSON that says what ran and what came of it."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version


def finish(package: str, ran: Sequence[str], result: str, seeds: Sequence[int] = ()) -> None:
    """Print the row of a library.

    Args:
        package: as pip names it.
        ran: what was tried, in words.
        result: the numbers, or what held.
        seeds: of what was trained.
    """
    versions = {}
    for name in ("gymnasium", "numpy", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    row = {"version": version(package), "ran": list(ran), "result": result, "seeds": list(seeds)}
    print(json.dumps({**row, "versions": versions, "python": platform.python_version()}))


def optimum(returns: Sequence[float], name: str) -> str:
    """Return the mean returns on Toy-v0 in words; fail unless all are the best there is, 1.5."""
    assert all(abs(value - 1.5) < 1e-6 for value in returns), f"{name}: {returns}, the best is 1.5"
    return f"{name} 1.5 on {len(returns)} of {len(returns)} seeds"
