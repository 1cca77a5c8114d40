"""Measure speed and memory, as ratios of things that take turns on the same machine.

    python examples/benchmark.py                    # all parts but peers and real_model, 10 minutes
    python examples/benchmark.py env rollout        # some of them
    python examples/benchmark.py peers              # needs .venv-trl, see `make bench-peers`
    python examples/benchmark.py real_model --model FOLDER   # a pretrained model, about 5 minutes
    python examples/benchmark.py --quick --out /tmp/benchmark.json   # that everything runs

Each part says in `examples/benchmarks/<part>.py` what is compared and how. Results go to
docs/results/benchmark.json and .md; parts that were not run keep what is there about them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PARTS = (
    "env",
    "actions",
    "rollout",
    "update",
    "control",
    "guided",
    "offline",
    "hindsight",
    "memory",
    "wordle",
)


def run_env(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `env`."""
    from benchmarks import env

    return {"threads": 1, "rows": [row.as_dict() for row in env.measure(args.quick, args.seed)]}


def run_actions(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `actions`."""
    from benchmarks import actions

    return {"threads": 1, "rows": [row.as_dict() for row in actions.measure(args.quick, args.seed)]}


def run_rollout(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `rollout`."""
    from benchmarks import rollout

    rows = rollout.measure(args.quick, args.seed, args.threads)
    return {"threads": args.threads, "rows": [row.as_dict() for row in rows]}


def run_update(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `update`."""
    from benchmarks import update

    rows = update.measure(args.quick, args.seed, args.threads)
    return {"threads": args.threads, "rows": [row.as_dict() for row in rows]}


def run_control(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `control`."""
    from benchmarks import control

    rows = control.measure(args.quick, args.seed, args.threads)
    return {"threads": args.threads, "rows": [row.as_dict() for row in rows]}


def run_offline(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `offline`."""
    from benchmarks import offline

    rows = offline.measure(args.quick, args.seed, args.threads)
    return {"threads": args.threads, "rows": [row.as_dict() for row in rows]}


def run_hindsight(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `hindsight`."""
    from benchmarks import hindsight

    rows = hindsight.measure(args.quick, args.seed, args.threads)
    return {"threads": args.threads, "rows": [row.as_dict() for row in rows]}


def run_guided(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `guided`."""
    from benchmarks import guided

    rows = guided.measure(args.quick, args.seed, args.threads)
    return {"threads": args.threads, "rows": [row.as_dict() for row in rows]}


def run_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `memory`."""
    from benchmarks import memory

    return {"threads": 1, **memory.measure(args.quick, args.seed)}


def run_wordle(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `wordle`."""
    from benchmarks import wordle

    return {"threads": 1, "turns_per_second": wordle.main(args.quick)}


def run_peers(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `peers`."""
    from benchmarks import peers

    return peers.measure(args.quick, args.seed, max(args.threads), args.goal, args.seconds)


def run_real_model(args: argparse.Namespace) -> dict[str, Any]:
    """Run the part `real_model`."""
    from benchmarks import real_model

    return real_model.measure(args.quick, args.seed, args.model, os.fspath(args.trl_python))


RUNS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "env": run_env,
    "actions": run_actions,
    "rollout": run_rollout,
    "update": run_update,
    "control": run_control,
    "guided": run_guided,
    "offline": run_offline,
    "hindsight": run_hindsight,
    "memory": run_memory,
    "wordle": run_wordle,
    "peers": run_peers,
    "real_model": run_real_model,
}


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", help=f"of {', '.join(RUNS)}; default all but the last two"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the numbers mean nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--goal", type=float, default=0.95, help="mean reward the peers run for")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which a peer gives up")
    parser.add_argument("--model", default="", help="folder of the model of real_model")
    parser.add_argument(
        "--trl-python", type=Path, default=ROOT / ".venv-trl" / "bin" / "python", help="has TRL"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "benchmark.json")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(RUNS))
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; accepted: {', '.join(RUNS)}")
    return args


def _command() -> str:
    """Return what was typed, without the paths of this machine."""
    words = list(sys.argv[1:])
    for name in ("--model", "--trl-python", "--out"):
        if name in words[:-1]:
            words[words.index(name) + 1] = name.removeprefix("--").upper()
    return " ".join(["python", "examples/benchmark.py", *words])


def main() -> None:
    """Run the parts asked for and write the results."""
    args = parse()
    # The environment is numpy alone; its threads would only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(args.threads)))
    from benchmarks.measure import machine
    from benchmarks.report import page

    for part in args.parts or PARTS:
        print(f"-- {part}", flush=True)
        result = {
            "command": _command(),
            "seed": args.seed,
            "machine": machine(),
            **RUNS[part](args),
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        # Read only now: another part may have been measured meanwhile.
        results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
        results[part] = result
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(page(results), encoding="utf-8")
    print(f"Wrote {args.out} and {args.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
