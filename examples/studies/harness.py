"""Resumable jobs over tasks, methods and seeds, and the report they add up to.

A job is a function of plain JSON arguments that returns a row of numbers. Its row is written when
it is done, in one move, so that an interrupted study goes on where it stopped; a changed argument
makes another job. Jobs of one stage run side by side, one thread each; a stage may read the folders
of the stages before it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

__all__ = [
    "ROOT",
    "Job",
    "arguments",
    "command_of",
    "interval",
    "over_seeds",
    "report",
    "run_stage",
    "size_of",
]

ROOT = Path(__file__).parents[2]

# Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Job:
    """One call of `function(folder, **arguments) -> row`.

    Attributes:
        function: at the top level of an importable module, so that another process finds it.
        arguments: plain JSON values; `task`, `method` and `seed` name the row.
    """

    function: Callable[..., Mapping[str, Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A readable folder name that no other job has."""
        content = json.dumps([self.function.__qualname__, self.arguments], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:10]
        words = [str(self.arguments.get(key, "")) for key in ("task", "method", "seed")]
        readable = "-".join(word for word in (self.function.__name__, *words) if word)
        return "".join(c if c.isalnum() or c in "-_." else "_" for c in readable) + f"-{digest}"

    def folder(self, work: Path) -> Path:
        """Where the job keeps what it makes."""
        return work / self.name


def _run(job: Job, work: Path) -> dict[str, Any]:
    """Do a job, unless its row lies there, and return the row."""
    folder = job.folder(work)
    path = folder / "row.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        row = {**job.arguments, **job.function(folder, **job.arguments)}
        row["seconds"] = round(time.perf_counter() - begin, 1)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def run_stage(jobs: Sequence[Job], work: Path, workers: int = 1) -> list[dict[str, Any]]:
    """Do all jobs and return their rows in the order of the jobs.

    A job that fails is reported and the others go on; its error is raised at the end.
    """
    rows: dict[int, dict[str, Any]] = {}
    failures: list[BaseException] = []

    def settle(number: int, get: Callable[[], dict[str, Any]]) -> None:
        try:
            rows[number] = get()
        except Exception as error:
            failures.append(error)
            print(f"{jobs[number].name} failed", file=sys.stderr)
            traceback.print_exception(error)
            return
        done, row = len(rows), rows[number]
        print(f"[{done}/{len(jobs)}] {jobs[number].name}  ({row['seconds']} s)", flush=True)

    if workers <= 1:
        _one_thread()
        for number, job in enumerate(jobs):
            settle(number, lambda job=job: _run(job, work))  # type: ignore[misc]
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
            futures = {pool.submit(_run, job, work): i for i, job in enumerate(jobs)}
            for future in as_completed(futures):
                settle(futures[future], future.result)
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(jobs)} jobs failed") from failures[0]
    return [rows[number] for number in range(len(jobs))]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95% interval by Student's t; NaN for one value."""
    n = len(values)
    if n < 2:
        return statistics.fmean(values), math.nan
    quantile = _T[n - 2] if n - 2 < len(_T) else 1.96
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(n)


def over_seeds(
    rows: Iterable[Mapping[str, Any]],
    metrics: Sequence[str],
    keys: Sequence[str] = ("task", "method"),
) -> list[dict[str, Any]]:
    """Return mean and 95% interval over the seeds for each group of rows and each metric."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    summary = []
    for group, members in groups.items():
        line: dict[str, Any] = dict(zip(keys, group, strict=True)) | {"seeds": len(members)}
        for metric in metrics:
            values = [float(m[metric]) for m in members if m.get(metric) is not None]
            if values:
                mean, half = interval(values)
                line[metric] = round(mean, 5)
                line[f"{metric}_half_width_95"] = None if math.isnan(half) else round(half, 5)
        summary.append(line)
    return summary


def arguments(doc: str, name: str, seeds: int, *, smoke: bool = False) -> argparse.ArgumentParser:
    """Return the options that every study has, and `--smoke` for one whose test needs it."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds, help=f"default {seeds}")
    parser.add_argument("--quick", action="store_true", help="small, in about five minutes")
    parser.add_argument("--workers", type=int, default=2, help="jobs side by side, default 2")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / f"study_{name}")
    out = ROOT / "docs" / "results" / f"{name}.json"
    parser.add_argument("--out", type=Path, default=out, help=f"default docs/results/{name}.json")
    if smoke:
        parser.add_argument("--smoke", action="store_true", help="the smallest sizes; for the test")
    parser.set_defaults(study=name, smoke=False)
    return parser


def size_of(args: argparse.Namespace) -> str:
    """Return which of its sizes a study is asked for: "full", "quick" or "smoke"."""
    return "smoke" if args.smoke else "quick" if args.quick else "full"


def command_of(args: argparse.Namespace) -> str:
    """Return the command that gives the report again."""
    flag = "" if size_of(args) == "full" else f" --{size_of(args)}"
    return f"python examples/study_{args.study}.py --seeds {args.seeds}{flag}"


def report(
    path: Path, command: str, rows: Sequence[Mapping[str, Any]], **parts: Any
) -> dict[str, Any]:
    """Write the report of a study, in one move, and return it."""
    content = {
        "command": command,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        **parts,
        "rows": [dict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return content
