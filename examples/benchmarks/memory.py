"""Part `memory`: peak memory of one roll-out and one update, and whether it is linear in tokens.

Each size (B episodes of T = 24, 48, 96 tokens after 8 prompt columns, the update in one minibatch
of all B) runs in a process of its own, which warms up on a tiny size, notes its resident memory,
resets the kernel's high-water mark and reports how far that mark rises (Linux: `VmHWM`). A line
is fitted to the peaks over the B x (8 + T) tokens; the residuals show how straight it is.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lm import agent, on_threads

__all__ = ["measure", "peak_mib"]


def _resident(key: str) -> float:
    """Return a line of this process's status, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def _iterate(num_envs: int, max_tokens: int, seed: int) -> None:
    ppo, _ = agent(
        num_envs, max_tokens, seed, may_stop=False, batch_size=num_envs, n_epochs=1, kl_coef=0.1
    )
    ppo.learn(num_envs * max_tokens)


def peak_mib(num_envs: int, max_tokens: int, seed: int) -> float:
    """Return by how many MiB one roll-out and update raise the peak of this process."""
    on_threads(1)
    _iterate(2, 2, seed)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the former peak
    _iterate(num_envs, max_tokens, seed)
    return _resident("VmHWM") - before


def measure(quick: bool, seed: int) -> dict[str, Any]:
    """Return the peaks of all sizes and the line through them; {} without Linux's /proc."""
    if not Path("/proc/self/clear_refs").exists():
        print("memory: needs Linux's /proc, left out")
        return {}
    sizes = [(n, t) for t in (24, 48, 96) for n in (32, 64, 128)]
    if quick:
        sizes = [(2, 4), (16, 8)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.lm"])  # imports once for all of the processes
    points = []
    for num_envs, max_tokens in sizes:
        with ProcessPoolExecutor(1, context) as pool:  # each its own: memory stays taken
            peak = round(pool.submit(peak_mib, num_envs, max_tokens, seed).result(), 2)
        points.append({"episodes": num_envs, "max_tokens": max_tokens, "peak_mib": peak})
        print(f"{num_envs} episodes, T={max_tokens}: peak {peak:.1f} MiB", flush=True)
    tokens = np.array([p["episodes"] * (8 + p["max_tokens"]) for p in points], dtype=float)
    peaks = np.array([p["peak_mib"] for p in points])
    slope, offset = (float(x) for x in np.polyfit(tokens, peaks, 1))
    residuals = peaks - (slope * tokens + offset)
    line = {
        "kib_per_token": round(1024 * slope, 2),
        "offset_mib": round(offset, 2),
        "largest_residual_mib": round(float(np.abs(residuals).max()), 2),
        "r_squared": round(float(1 - residuals.var() / peaks.var()), 5),
    }
    print(f"memory: {json.dumps(line)}", flush=True)
    return {"points": points, "line": line}
