"""The quickstart over several seeds: does the reward rise every time, and does the KL stay bounded?

    python examples/study_quickstart.py --seeds 3

Writes `docs/results/quickstart.json`. A seed that has been run already is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def run(seed: int, out: Path, extra: list[str]) -> dict[str, Any]:
    """Run the quickstart with one seed, unless its summary lies there, and return the summary."""
    summary = out / "summary.json"
    if not summary.exists():
        begin = time.perf_counter()
        command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), "--seed", str(seed)]
        subprocess.run([*command, "--out", str(out), *extra], check=True)
        content = json.loads(summary.read_text(encoding="utf-8"))
        content["seconds"] = round(time.perf_counter() - begin, 1)
        summary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    loaded: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return loaded


# Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and 95% interval over the seeds for each method and metric."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["metric"]), []).append(row["score"])
    summary = []
    for (method, metric), scores in groups.items():
        n = len(scores)
        half = 0.0
        if n > 1:
            quantile = _T[n - 2] if n - 2 < len(_T) else 1.96
            half = quantile * statistics.stdev(scores) / math.sqrt(n)
        mean = statistics.fmean(scores)
        summary.append(
            {"method": method, "metric": metric, "seeds": n, "mean": mean, "half_width_95": half}
        )
    return summary


def main() -> None:
    """Run all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "study_quickstart")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "quickstart.json")
    args = parser.parse_args()
    extra = ["--quick"] if args.quick else []
    rows = []
    for seed in range(args.seeds):
        summary = run(seed, args.work / f"seed{seed}{'_quick' if args.quick else ''}", extra)
        for when in ("before", "after"):
            rows += [
                {
                    "task": "text_envs/Reviews-v0, test split",
                    "method": "initial model" if when == "before" else "PPO",
                    "seed": seed,
                    "metric": name,
                    "score": mean,
                    "half_width_95": half,
                    "seconds": summary["seconds"],
                }
                for name, (mean, half) in summary[when].items()
            ]
    report = {
        "command": f"python examples/study_quickstart.py --seeds {args.seeds}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "over_seeds": over_seeds(rows),
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(
            f"{row['method']:14} seed {row['seed']}  {row['metric']:18} "
            f"{row['score']:8.3f} ± {row['half_width_95']:.3f}   ({row['seconds']} s)"
        )


if __name__ == "__main__":
    main()
