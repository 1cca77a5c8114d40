"""Offline learning: what each method makes of the same recorded episodes of four games.

    python examples/study_offline.py            # about an hour on one core
    python examples/study_offline.py --quick    # a few minutes

Wordle, a maze, visual dialogue under three rewards and forum comments under two; behaviour cloning
and its filtered and return-conditioned forms, Monte-Carlo values, SARSA, token CQL and ILQL, all
from one cloned model a seed. Two tests beside: is a good opening seen through that mostly lost
(tau), and how much guidance is too much (beta)? Writes docs/results/offline.json and .png.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

from studies import offline, offline_adversarial
from studies.harness import (
    Job,
    arguments,
    command_of,
    interval,
    over_seeds,
    report,
    run_stage,
    size_of,
)
from studies.offline_settings import (
    ADVERSARIAL,
    ADVERSARIAL_SIZES,
    BETAS,
    LEARNED,
    TAUS,
    Budget,
    budget_of,
)  # fmt: skip

SWEPT = ("Wordle", "Maze")  # tasks in which beta is varied
COLOURS = {
    "data": "0.6", "BC": "tab:gray", "%BC": "tab:brown", "DT": "tab:olive", "MC": "tab:orange",
    "SARSA": "tab:green", "CQL": "tab:purple", "ILQL": "tab:blue", "expert": "black",
}  # fmt: skip


def main() -> None:
    """Run all jobs and write the report."""
    parser = arguments(__doc__, "offline", seeds=3, smoke=True)
    parser.add_argument("--tasks", nargs="+", choices=offline.TASKS, default=list(offline.TASKS))
    args = parser.parse_args()
    size = size_of(args)
    work = args.work / size
    families = list(dict.fromkeys(offline.TASKS[task].family for task in args.tasks))
    clones = {
        (family, seed): Job(offline.clone, clone_arguments(budget_of(family, size), family, seed))
        for family in families
        for seed in range(args.seeds)
    }
    run_stage(list(clones.values()), work, args.workers)
    models = {key: str(job.folder(work) / "model") for key, job in clones.items()}
    jobs = [
        job
        for seed in range(args.seeds)
        for task in args.tasks
        for job in jobs_of(task, seed, models[offline.TASKS[task].family, seed], size)
    ]
    rows = run_stage(jobs, work, args.workers)
    for row in rows:
        row.pop("model", None)  # a path of this machine
        row.pop("curve", None)
    tests = [row for row in rows if "accuracy" in row]
    games = normalised([row for row in rows if "return" in row])
    summary = over_seeds(games, ("score", "return"))
    sweep = over_seeds(
        [row | point for row in games for point in row.get("sweep", ())],
        ("score", "return"), ("task", "method", "beta"),
    )  # fmt: skip
    adversarial = over_seeds(
        [row | {"tau": row["settings"]["tau"]} for row in tests],
        ("accuracy", "expert_first_word", "suboptimal_first_word"), ("method", "tau"),
    )  # fmt: skip
    report(
        args.out,
        command_of(args),
        games + tests,
        over_seeds=summary,
        adversarial=adversarial,
        beta_sweep=sweep,
    )
    draw(summary, adversarial, sweep, args.out.with_suffix(".png"))
    for line in summary:
        print(line["task"], line["method"], line["score"], line["score_half_width_95"])


def clone_arguments(budget: Budget, family: str, seed: int) -> dict[str, Any]:
    """Return the arguments of `offline.clone`."""
    return {
        "task": family, "method": "BC", "seed": seed, "episodes": budget.episodes,
        "updates": budget.clone_updates, "batch_size": budget.batch_size, "learning_rate": 4e-3,
    }  # fmt: skip


def jobs_of(task: str, seed: int, model: str, size: str) -> list[Job]:
    """Return the jobs of a task and a seed, once its model has been cloned."""
    budget = budget_of(offline.TASKS[task].family, size)
    where: dict[str, Any] = {"task": task, "seed": seed, "episodes": budget.episodes}
    jobs = [
        Job(offline.scripted, where | {"method": method}) for method in ("data", "random", "expert")
    ]
    where |= {"model": model, "batch_size": budget.batch_size}
    games = {"evaluation": budget.evaluation}
    for method in ("BC", "%BC", "DT"):
        updates = 0 if method == "BC" else budget.imitation_updates
        more = {"method": method, "updates": updates, "learning_rate": 1e-3}
        jobs.append(Job(offline.imitate, where | games | more))
    where |= {"updates": budget.updates, "learning_rate": budget.learning_rate}
    for method in LEARNED:
        settings, beta = budget.settings_of(method)
        betas = list(BETAS) if task in SWEPT else []
        more = {"method": method, "settings": settings, "beta": beta, "betas": betas}
        jobs.append(Job(offline.values, where | games | more))
    if task == "Wordle":
        episodes, updates = ADVERSARIAL_SIZES[size]
        same = {"task": "Wordle, adversarial", "seed": seed, "episodes": episodes}
        where |= same | {"method": "ILQL", "updates": updates}
        for tau in TAUS:
            settings = {"settings": ADVERSARIAL | {"tau": tau}}
            jobs.append(Job(offline_adversarial.adversarial, where | settings))
            exact = same | {"method": "exact"} | settings
            jobs.append(Job(offline_adversarial.fixed_point, exact))
    return jobs


def normalised(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with a `score`: 0 for chance and 1 for the expert, in the mean over the seeds."""
    scale = {
        (row["task"], row["method"]): interval(
            [r["return"] for r in rows if (r["task"], r["method"]) == (row["task"], row["method"])]
        )[0]
        for row in rows
        if row["method"] in ("random", "expert")
    }

    def score(task: str, value: float) -> float:
        low, high = scale[task, "random"], scale[task, "expert"]
        return round((value - low) / (high - low), 4)

    return [
        {**row, "score": score(row["task"], row["return"])}
        | (
            {"sweep": [p | {"score": score(row["task"], p["return"])} for p in row["sweep"]]}
            if row.get("sweep")
            else {}
        )
        for row in rows
    ]


def draw(
    summary: Sequence[Mapping[str, Any]], adversarial: Sequence[Mapping[str, Any]],
    sweep: Sequence[Mapping[str, Any]], path: Path,
) -> None:  # fmt: skip
    """Draw scores by task, the adversarial test against tau, and scores against beta."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    axis = above.subplots()
    tasks = list(dict.fromkeys(line["task"] for line in summary))
    methods = [m for m in COLOURS if any(line["method"] == m for line in summary)]
    for k, method in enumerate(methods):
        lines = [next(x for x in summary if (x["task"], x["method"]) == (t, method)) for t in tasks]
        axis.bar(
            [i + (k - (len(methods) - 1) / 2) * 0.09 for i in range(len(tasks))],
            [line["score"] for line in lines], 0.08, color=COLOURS[method], label=method,
            yerr=[line["score_half_width_95"] or 0 for line in lines], error_kw={"lw": 0.8},
        )  # fmt: skip
    axis.set_xticks(range(len(tasks)), tasks)
    axis.axhline(1, color="black", lw=0.5)
    axis.set(ylabel="score: 0 chance, 1 expert", title="Return of what each method learned")
    axis.legend(ncols=len(methods), fontsize=8)
    left, *others = below.subplots(1, 3)
    for method, colour, label in (
        ("ILQL", "tab:blue", "ILQL"),
        ("exact", "black", "least loss on these games"),
    ):
        lines = [line for line in adversarial if line["method"] == method]
        _curve(left, lines, "tau", "accuracy", colour, label)
    left.set(
        title="Wordle: good openings that mostly lost", xlabel="tau",
        ylabel="pairs in which the expert's\nfirst word has the higher Q", ylim=(-0.05, 1.05),
    )  # fmt: skip
    if adversarial:
        left.legend(fontsize=8)
    for axis, task in zip(others, SWEPT, strict=True):
        for method in LEARNED:
            lines = [x for x in sweep if (x["task"], x["method"]) == (task, method)]
            _curve(axis, lines, "beta", "score", COLOURS[method], method)
        axis.set_xscale("symlog", base=2, linthresh=1)
        axis.set(title=f"{task}: strength of the guidance", xlabel="beta", ylabel="score")
        if task in tasks:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _curve(axis: Any, lines: Sequence[Any], x: str, y: str, colour: str, label: str) -> None:
    if lines:
        axis.errorbar(
            [line[x] for line in lines], [line[y] for line in lines],
            yerr=[line[f"{y}_half_width_95"] or 0 for line in lines],
            fmt="o-", ms=3, color=colour, capsize=2, label=label,
        )  # fmt: skip


if __name__ == "__main__":
    main()
