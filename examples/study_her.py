"""HIR beside the off-the-shelf way to learn from hindsight, Stable-Baselines3's DQN with HER.

    python examples/study_her.py            # about ten minutes on two cores
    python examples/study_her.py --quick    # a minute

Four small goal tasks, learnt from random weights and equally many tokens: what share of greedy
answers is what was asked for, where right answers are asked for, where wrong ones are, and on
questions of the test split. Writes docs/results/her.json and .png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

from studies import her
from studies.harness import Job, arguments, command_of, over_seeds, report, run_stage, size_of

METRICS = ("asked_right", "asked_wrong", "held_out")
METHODS = {"HIR": "tab:green", "FARL": "tab:orange", "DQN + HER": "tab:gray"}
TOKENS = {"full": 20_000, "quick": 3_000, "smoke": 256}


def main() -> None:
    """Run all jobs and write the report."""
    args = arguments(__doc__, "her", seeds=3, smoke=True).parse_args()
    size = size_of(args)
    jobs = [
        Job(her.train, {"task": task, "method": method, "seed": seed, "tokens": TOKENS[size]})
        for seed in range(args.seeds)
        for task in her.TASKS
        for method in METHODS
    ]
    rows = run_stage(jobs, args.work / size, args.workers)
    summary = over_seeds(rows, METRICS)
    report(
        args.out,
        command_of(args),
        rows,
        settings={
            "hindsight": dict(her.HINDSIGHT),
            "DQN": dict(her.DQN_SETTINGS),
            "tasks": {task: dict(settings) for task, settings in her.TASKS.items()},
        },
        over_seeds=summary,
    )
    draw(summary, args.out.with_suffix(".png"))
    for line in summary:
        print(line)


def draw(summary: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what each method reaches on each task."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    titles = ("right answers asked for", "wrong answers asked for", "right ones, test split")
    tasks = list(her.TASKS)
    for axis, metric, title in zip(
        figure.subplots(1, 3, sharey=True), METRICS, titles, strict=True
    ):
        for number, (method, colour) in enumerate(METHODS.items()):
            lines = {line["task"]: line for line in summary if line["method"] == method}
            axis.bar(
                np.arange(len(tasks)) + (number - 1) * 0.27,
                [lines[task][metric] for task in tasks],
                0.27,
                yerr=[lines[task][f"{metric}_half_width_95"] or 0.0 for task in tasks],
                color=colour, label=method, error_kw={"elinewidth": 0.8},
            )  # fmt: skip
        axis.set_xticks(np.arange(len(tasks)), [fill(task, 15) for task in tasks])
        axis.tick_params(axis="x", labelsize=7)
        axis.set(title=title, ylim=(0, 1.05))
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
