"""Part `peers`: seconds to a mean reward on the bundled model, against TRL's RLOO and GRPO.

Every contestant trains the bundled language model on the training openings of `Reviews-v0` with
the same sentiment reward, 64 texts of up to 24 tokens an iteration, temperature 1, without KL, on
the same number of threads, in a process of its own. The clock runs from the start of training
(imports, loading and a warm-up iteration excluded) until the mean reward of the last two
iterations has reached the goal.

Tuning is the same for everybody: each pair of a learning rate and of a number of optimiser steps
an iteration (whole batch, or minibatches of 16 texts) is tried on a seed of its own; the pair that
was fastest then runs on the seeds that count, contestants taking turns.

    python examples/benchmark.py peers        # after `make bench-peers` has made .venv-trl
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["COMPLETIONS", "add_arguments", "measure"]

COMPLETIONS = 64
RATES = (1e-4, 3e-4, 1e-3)
STEPS = (1, 4)
METHODS = ("PPO", "RLOO", "GRPO")
TUNING_SEED = 100
TRL_PYTHON = Path(__file__).parents[2] / ".venv-trl" / "bin" / "python"


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add what every contestant is told; return the parser."""
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True, help="optimiser steps an iteration")
    parser.add_argument("--goal", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="give up after that long")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser


def _run(method: str, rate: float, steps: int, seed: int, common: dict[str, Any]) -> dict[str, Any]:
    ours = method == "PPO"
    python = sys.executable if ours else os.fspath(TRL_PYTHON)
    settings = {"method": method, "rate": rate, "steps": steps, "seed": seed}
    command = [python, "-m", "benchmarks.ppo_peer" if ours else "benchmarks.trl_peer"]
    for name, value in {**settings, **common}.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(common["threads"]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result = {**settings, **json.loads(done.stdout.strip().splitlines()[-1])}
    last = [reward for _, reward in result.pop("curve")[-2:]]
    result["reward"] = round(float(np.mean(last)), 4)
    print(json.dumps(result), flush=True)
    return result


def measure(quick: bool, seed: int, threads: int, goal: float, seconds: float) -> dict[str, Any]:
    """Return tuning runs, final runs and the ratios of their times.

    Raises:
        FileNotFoundError: the virtual environment of TRL is missing.
    """
    if not TRL_PYTHON.exists():
        raise FileNotFoundError(f"{TRL_PYTHON} is missing; `make bench-peers` makes it")
    common = {"goal": goal, "seconds": seconds, "threads": threads}
    grid = [(3e-4, 1)] if quick else list(itertools.product(RATES, STEPS))
    seeds = range(seed, seed + (1 if quick else 3))
    tuning = [
        _run(method, rate, steps, TUNING_SEED, common) for rate, steps in grid for method in METHODS
    ]
    best = {name: min((r for r in tuning if r["method"] == name), key=_rank) for name in METHODS}
    final = [
        _run(name, best[name]["rate"], best[name]["steps"], number, common)
        for number in seeds
        for name in METHODS
    ]
    return {**common, **_summary(final, seconds), "final": final, "tuning": tuning}


def _rank(run: dict[str, Any]) -> float:
    """Return the processor's time to the goal; who missed it comes last, by its last rewards."""
    if run["seconds"] is not None:
        return float(run["cpu_seconds"])
    return 1e6 - float(run["reward"])


def _summary(final: list[dict[str, Any]], limit: float) -> dict[str, Any]:
    """Return the times of each method and how many times as fast PPO is, seed by seed.

    A missed goal counts as the time limit, in favour of the one that missed it.
    """
    summary: dict[str, Any] = {}
    for clock in ("seconds", "cpu_seconds"):
        times: dict[str, Any] = {method: [] for method in METHODS}
        for run in final:
            times[run["method"]].append(limit if run["seconds"] is None else run[clock])
        ours, others = np.array(times["PPO"]), {name: np.array(times[name]) for name in METHODS[1:]}
        others["the better one"] = np.minimum(*others.values())
        ratios = {name: other / ours for name, other in others.items()}
        for name, ratio in ratios.items():
            print(f"{clock}: PPO / TRL, {name}: {np.median(ratio):.2f} x {ratio.round(2).tolist()}")
        rounded = {name: ratio.round(3).tolist() for name, ratio in ratios.items()}
        summary[clock] = {"to_goal": times, "times_as_fast_as": rounded}
    return summary
