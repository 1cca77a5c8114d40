"""Timing things against each other on a machine that does other things too.

Contenders take turns, a short stretch each, in an order that rotates; a ratio compares stretches
of one round, so that a slow second hits both sides of it. Reported are the median over the rounds
and the quartiles.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Row", "compare", "interleave", "machine"]

Contender = Callable[[], float]
"""Works for a short stretch and returns how fast it was, in units a second."""


@dataclass(frozen=True)
class Row:
    """One comparison: how many times as fast `ours` is as `against`.

    Attributes:
        part: the part of the benchmark.
        case: sizes and settings.
        ours: what is measured.
        against: what it is compared with.
        unit: of the two speeds.
        speed: median speed of ours.
        other_speed: median speed of the other.
        ratio: median of the rounds' ratios of the speeds.
        low: first quartile of the ratios.
        high: third quartile.
        rounds: number of ratios.
        target: what the ratio should reach, or None.
    """

    part: str
    case: str
    ours: str
    against: str
    unit: str
    speed: float
    other_speed: float
    ratio: float
    low: float
    high: float
    rounds: int
    target: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the median is at the target."""
        return self.target is None or self.ratio >= self.target

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values with four significant digits."""
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }

    def __str__(self) -> str:
        target = "" if self.target is None else f"  target {self.target:g}"
        missed = "" if self.reached else "  MISSED"
        return (
            f"{self.case:34} {self.ours:22} / {self.against:24} {self.ratio:8.2f} x "
            f"[{self.low:.2f}, {self.high:.2f}]{target}{missed}"
            f"   ({self.speed:,.0f} against {self.other_speed:,.0f} {self.unit})"
        )


def interleave(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Return the speeds of each contender, one a round, after a round that does not count."""
    names = list(contenders)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            speed = contenders[name]()
            if number:
                speeds[name].append(speed)
    return speeds


def compare(
    speeds: Mapping[str, Sequence[float]],
    ours: str,
    against: str,
    *,
    part: str,
    case: str,
    unit: str,
    target: float | None = None,
) -> Row:
    """Return the row that compares two contenders of one `interleave`."""
    ratios = np.array(speeds[ours]) / np.array(speeds[against])
    low, ratio, high = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
    return Row(
        part=part,
        case=case,
        ours=ours,
        against=against,
        unit=unit,
        speed=float(np.median(speeds[ours])),
        other_speed=float(np.median(speeds[against])),
        ratio=ratio,
        low=low,
        high=high,
        rounds=len(ratios),
        target=target,
    )


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, memory, versions."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    packages = ("numpy", "gymnasium", "torch", "transformers", "stable-baselines3")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages * size / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
