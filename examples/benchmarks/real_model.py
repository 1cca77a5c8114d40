"""Part `real_model`: memory and time of training a pretrained model of ordinary size.

    python examples/benchmark.py real_model --model FOLDER   # of a causal model of transformers
    python examples/benchmark.py real_model                  # SmolLM2-135M's shape, random weights

Each contender trains the model in float32 on B sequences of P + T tokens a step (8 of 16 + 16),
in a process of its own, on one thread. Every text has exactly T tokens. Compared are

- the peak of memory above what the process held before there was a model, from the first step on
  (Linux: `VmHWM`), with that of a bare training step: forward, cross entropy of T tokens, backward,
  clipping, the same Adam;
- processor seconds of PPO's update, optimiser and statistics included, with those of a bare forward
  and backward pass, which take turns in one process;
- processor seconds of an iteration of RLOO and GRPO with those of TRL's, where `make bench-peers`
  has made .venv-trl (or `--trl-python` names another Python that has TRL).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["measure"]

OURS = (
    "bare", "PPO", "PPO checkpointing", "PPO LoRA", "RLOO", "GRPO", "BC", "BC smoothing", "ILQL",
    "ILQL checkpointing",
)  # fmt: skip
PEERS = ("TRL RLOO", "TRL GRPO")
# Times the peak of a bare step, at most.
MEMORY = {"PPO": 1.25, "PPO LoRA": 0.6, "ILQL": 2.0, "ILQL checkpointing": 2.0}


def _run(python: str, module: str, what: str, common: dict[str, Any]) -> dict[str, Any]:
    command = [python, "-m", f"benchmarks.{module}", "--what", what]
    for name, value in common.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(common["threads"]), "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).parents[1]
    paths = [os.fspath(root), os.fspath(root.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    seconds = {
        name: round(float(np.median(values[1:] or values)), 3)  # the first warms up
        for name, values in found["cpu_seconds"].items()
    }
    result = {"what": what, "peak_mib": round(found["peak_mib"], 1), "cpu_seconds": seconds}
    print(json.dumps(result), flush=True)
    return result


def measure(quick: bool, seed: int, model: str, trl_python: str) -> dict[str, Any]:
    """Return what each contender took, and the ratios.

    Args:
        quick: tiny sizes.
        seed: of the agents.
        model: a folder, or nothing for random weights; its path is not noted.
        trl_python: an interpreter that has TRL; its contenders are left out where it is missing.
    """
    sizes = {"sequences": 2, "prompt": 4, "tokens": 4, "updates": 2}
    if not quick:
        sizes = {"sequences": 8, "prompt": 16, "tokens": 16, "updates": 4}
    common = {"model": model, "quick": int(quick), **sizes, "threads": 1, "seed": seed}
    rows = [_run(sys.executable, "real_ours", what, common) for what in OURS]
    timed = _run(sys.executable, "real_ours", "pace", common)["cpu_seconds"]
    if Path(trl_python).exists():
        rows += [_run(trl_python, "real_trl", what, common) for what in PEERS]
    return {
        "threads": 1,
        "weights": "of a folder" if model else "random",
        **sizes,
        "contenders": rows,
        "pace": timed,
        "ratios": _ratios({row["what"]: row for row in rows}, timed),
    }


def _ratios(rows: dict[str, dict[str, Any]], pace: dict[str, float]) -> list[dict[str, Any]]:
    """Return the ratios, each with what it should be at most."""
    found = [
        _ratio(f"peak memory, {name} / bare step", rows[name], rows["bare"], target)
        for name, target in MEMORY.items()
    ]
    found += [
        {"of": f"CPU seconds, PPO update / {other}", "most": most,
         "ratio": round(pace["PPO update"] / pace[other], 3)}
        for other, most in (("bare pass", 1.1), ("bare update", None))
    ]  # fmt: skip
    for name in ("RLOO", "GRPO"):
        if (peer := rows.get(f"TRL {name}")) is not None:
            found.append(_ratio(f"peak memory, {name} / TRL's", rows[name], peer, 1.0))
            for stretch in ("iteration", "update"):
                spent, theirs = (r["cpu_seconds"][stretch] for r in (rows[name], peer))
                of = f"CPU seconds an {stretch}, {name} / TRL's"
                found.append({"of": of, "most": 1.0, "ratio": round(spent / theirs, 3)})
    for row in found:
        print(json.dumps(row), flush=True)
    return found


def _ratio(of: str, ours: dict[str, Any], other: dict[str, Any], most: float) -> dict[str, Any]:
    return {"of": of, "most": most, "ratio": round(ours["peak_mib"] / other["peak_mib"], 3)}
