"""Hindsight instruction relabelling on twelve reasoning tasks, against what else feedback allows.

    python examples/study_hir.py            # about two hours on one core
    python examples/study_hir.py --quick    # a few minutes

A tiny language model that has read questions with their answers is the start of every method: one
for all tasks but those of swaps, for which there is a deeper one. The methods are PPO on the final
answer, FARL (fine-tuning on its own right answers), HIR, and SFT on given answers. All see the same
questions and equally many answers; accuracy is of greedy answers to questions whose contexts are in
no training set. Then HIR without each of its parts, and one task with three times the iterations.
Writes docs/results/hir.json and .png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

from studies import hir, hir_pretraining
from studies.harness import Job, arguments, command_of, over_seeds, report, run_stage, size_of
from studies.hir_tasks import SWAPS, TASKS, arguments_of, task_of

METRICS = ("accuracy", "accuracy_train", "accuracy_asked_wrong")
METHODS = ("PPO", "FARL", "HIR", "SFT")
ABLATED = ("GeometricShapes", "LogicalDeductionThree", "WordSorting")
# With three times the iterations, since hindsight first has to learn what its instructions mean.
LONGER = "LogicalDeductionThree"
SIZES = {
    "full": {"rounds": 20, "answers": 512, "questions": 2000, "tested": 500},
    "quick": {"rounds": 3, "answers": 256, "questions": 512, "tested": 128},
    "smoke": {"rounds": 1, "answers": 64, "questions": 64, "tested": 32},
}
PRETRAINING = {
    "full": {"steps": 4000, "layers": 3, "width": 64},
    "quick": {"steps": 600, "layers": 2, "width": 64},
    "smoke": {"steps": 24, "layers": 1, "width": 16},
}
PRETRAINING_ON_SWAPS = {
    "full": {"most_steps": 12000, "layers": 5, "width": 64},
    "quick": {"most_steps": 600, "layers": 5, "width": 64},
    "smoke": {"most_steps": 4, "layers": 1, "width": 16},
}
COLOURS = {
    "chance": "0.8", "majority": "0.6", "base": "black", "PPO": "tab:blue", "FARL": "tab:orange",
    "HIR": "tab:green", "SFT": "tab:purple",
}  # fmt: skip


def main() -> None:
    """Run all jobs and write the report."""
    args = arguments(__doc__, "hir", seeds=3, smoke=True).parse_args()
    size = size_of(args)
    work = args.work / size
    general = Job(hir_pretraining.pretrain, {"task": "all", "seed": 0, **PRETRAINING[size]})
    swaps = Job(
        hir_pretraining.pretrain_on_swaps,
        {"task": "swaps", "seed": 0, **PRETRAINING_ON_SWAPS[size]},
    )
    rows = run_stage([general, swaps], work, args.workers)

    def start(task: str) -> str:
        folder = swaps.folder(work) / task if task in SWAPS else general.folder(work)
        return str(folder / "agent")

    def job(task: str, method: str, seed: int, times: int = 1) -> Job:
        names = {"task": task, "method": method, "seed": seed}
        sizes = {**SIZES[size], "rounds": times * SIZES[size]["rounds"]}
        return Job(hir.train, {**names, "start": start(task), **sizes})

    jobs = [job(task, "base", 0) for task in TASKS]
    jobs += [
        job(task, method, seed)
        for seed in range(args.seeds)
        for task in TASKS
        for method in METHODS
    ]
    jobs += [
        job(task, without, seed)
        for seed in range(args.seeds)
        for task in ABLATED
        for without in hir.ABLATION
        if without != "no sub-output" or task == "WordSorting"
    ]
    longer_jobs = [
        job(LONGER, method, seed, 3)
        for seed in range(args.seeds)
        for method in ("PPO", "FARL", "HIR")
    ]
    trained = run_stage(jobs + longer_jobs, work, args.workers)
    for row in trained:
        row.pop("start")  # a path of this machine
    trained, longer = trained[: len(jobs)], trained[len(jobs) :]
    rows += [*trained, *_not_read(SIZES[size]["tested"])]
    main_rows = [row for row in rows if row.get("method") in COLOURS]
    ablation_rows = [r for r in rows if r.get("method") in ("HIR", *hir.ABLATION)]
    summary = over_seeds(main_rows, METRICS)
    report(
        args.out,
        command_of(args),
        rows + longer,
        settings={
            "sizes": SIZES[size],
            "hindsight": dict(hir.HINDSIGHT),
            "parts of WordSorting": hir.PARTS,
            "PPO": dict(hir.PPO_SETTINGS),
            "SFT": dict(hir.SFT),
            "tasks": {task: dict(settings) for task, settings in TASKS.items()},
        },
        averages=over_seeds(_averages(main_rows), METRICS, ("method",)),
        over_seeds=summary,
        longer=over_seeds(longer, METRICS, ("task", "method", "rounds")),
        ablation=over_seeds([r for r in ablation_rows if r["task"] in ABLATED], METRICS),
    )
    draw(summary, args.out.with_suffix(".png"))
    for line in over_seeds(_averages(main_rows), METRICS, ("method",)):
        print(line)


def _not_read(tested: int) -> list[dict[str, Any]]:
    """Return rows of answers for which nobody reads the question."""
    return [
        {"task": task, "method": method, "seed": 0, "accuracy": accuracy}
        for task in TASKS
        for method, accuracy in task_of(task, **arguments_of(task, "test", tested))
        .baselines()
        .items()
    ]


def _averages(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the average over the tasks for each method and seed."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["seed"]), []).append(row)
    return [
        {
            "method": method,
            "seed": seed,
            **{m: float(np.mean([r[m] for r in of])) for m in METRICS if m in of[0]},
        }
        for (method, seed), of in groups.items()
    ]


def draw(summary: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the accuracy of each method on each task."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(COLOURS)
    for number, (method, colour) in enumerate(COLOURS.items()):
        lines = {line["task"]: line for line in summary if line["method"] == method}
        axis.bar(
            np.arange(len(TASKS)) + (number - 3) * width,
            [lines[task]["accuracy"] for task in TASKS],
            width,
            yerr=[lines[task]["accuracy_half_width_95"] or 0.0 for task in TASKS],
            color=colour, label=method, error_kw={"elinewidth": 0.8},
        )  # fmt: skip
    axis.set_xticks(np.arange(len(TASKS)), list(TASKS), rotation=20, ha="right")
    axis.set(ylabel="accuracy, contexts never seen", ylim=(0, 1.02))
    axis.legend(ncols=len(COLOURS), fontsize=8)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
