"""Learning with a guide: PPO++, AggreVaTeD, LOLS and D2LOLS against PPO, SFT and the guide itself.

    python examples/study_rlgf.py            # about half an hour on one core
    python examples/study_rlgf.py --quick    # about two minutes

Reviews-v0, ConceptsToSentence-v0 (also paid for all concepts or not at all) and Summarization-v0,
with a guide that is better than the model that training starts from; every method writes the same
number of tokens itself. PPO++ also with other shares of guided starts (beta). Writes
docs/results/rlgf.json and .png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

from studies import rlgf
from studies.harness import Job, arguments, command_of, over_seeds, report, run_stage, size_of

METRICS = (
    "reward", "reward_coverage", "reward_ciderd", "coverage", "bleu", "rouge", "meteor", "vader",
    "kl", "perplexity", "length", "distinct_1", "distinct_2", "tokens", "texts", "guide_calls",
    "guide_rows", "guide_tokens",
)  # fmt: skip
BETAS = (0.0, 0.3, 0.6, 0.9)
ABLATED = "Concepts"
# What a text is worth apart from what was paid.
JUDGE = {
    "Reviews": "vader", "Concepts": "coverage", "Summarization": "rouge",
    "Concepts, all or none": "coverage",
}  # fmt: skip
COLOURS = {
    "SFT": "tab:gray", "guide": "black", "PPO": "tab:blue", "PPO++": "tab:orange",
    "AggreVaTeD": "tab:green", "LOLS": "tab:red", "D2LOLS": "tab:purple",
}  # fmt: skip


def main() -> None:
    """Run all jobs and write the report."""
    args = arguments(__doc__, "rlgf", seeds=3).parse_args()
    scale = 0.02 if args.quick else 1.0
    work = args.work / size_of(args)
    starts = {t: _job(rlgf.sft, t, "SFT", 0, scale) for t in rlgf.CASES}
    rows = run_stage(list(starts.values()), work, args.workers)
    folders = {t: {"start": str(job.folder(work) / "agent")} for t, job in starts.items()}
    guides = {t: _job(rlgf.guide, t, "guide", 0, scale, **folders[t]) for t in rlgf.CASES}
    rows += run_stage(list(guides.values()), work, args.workers)
    for task, job in guides.items():
        folders[task]["guide"] = str(job.folder(work) / "agent")
    jobs = [
        _job(rlgf.train, task, method, seed, scale, **folders[task])
        for seed in range(args.seeds)
        for task in rlgf.CASES
        for method in rlgf.METHODS
    ]
    ablation = [
        _job(rlgf.train, ABLATED, "PPO++", seed, scale, **folders[ABLATED], beta=beta)
        for seed in range(args.seeds)
        for beta in BETAS
    ]
    trained = run_stage(jobs + ablation, work, args.workers)
    rows += trained[: len(jobs)]
    ablated = trained[len(jobs) :]
    for row in rows + ablated:
        row.pop("start", None), row.pop("guide", None)  # paths of this machine
    summary = over_seeds(rows, METRICS)
    by_beta = over_seeds(ablated, METRICS, keys=("task", "method", "beta"))
    report(
        args.out,
        command_of(args),
        rows + ablated,
        settings={
            "all": dict(rlgf.SETTINGS),
            **{
                task: {
                    "kl_coef": case.kl_coef,
                    "learning_rate": case.learning_rate,
                    "tokens": int(case.tokens * scale),
                }
                for task, case in rlgf.CASES.items()
            },
            **{method: kwargs for method, (_, kwargs) in rlgf.METHODS.items()},
        },
        over_seeds=summary,
        over_betas=by_beta,
    )
    draw(summary, by_beta, args.out.with_suffix(".png"))
    for line in summary:
        shown = {m: line[m] for m in ("reward", JUDGE[line["task"]], "kl", "texts") if m in line}
        print(line["task"], line["method"], shown)


def _job(function: Any, task: str, method: str, seed: int, scale: float, **settings: Any) -> Job:
    names = {"task": task, "method": method, "seed": seed, "scale": scale}
    return Job(function, names | settings)


def draw(summary: list[dict[str, Any]], by_beta: list[dict[str, Any]], path: Path) -> None:
    """Draw reward and judge of every method, and both against beta."""
    figure = Figure(figsize=(4 * (len(rlgf.CASES) + 1), 7), layout="constrained")
    axes = figure.subplots(2, len(rlgf.CASES) + 1)
    for column, task in enumerate(rlgf.CASES):
        lines = [line for line in summary if line["task"] == task]
        lines.sort(key=lambda line: list(COLOURS).index(line["method"]), reverse=True)
        for axis, metric in zip(axes[:, column], ("reward", JUDGE[task]), strict=True):
            axis.barh(
                [line["method"] for line in lines], [line[metric] for line in lines],
                xerr=[line[f"{metric}_half_width_95"] or 0.0 for line in lines], capsize=3,
                color=[COLOURS[line["method"]] for line in lines], alpha=0.8,
            )  # fmt: skip
            paid = "reward (optimised)" if metric == "reward" else f"{metric} (is not)"
            axis.set_title(f"{task}: {paid}", fontsize=10)
    for axis, metric in zip(axes[:, -1], ("reward", JUDGE[ABLATED]), strict=True):
        axis.errorbar(
            [line["beta"] for line in by_beta], [line[metric] for line in by_beta],
            yerr=[line[f"{metric}_half_width_95"] or 0.0 for line in by_beta], fmt="o-",
            color=COLOURS["PPO++"], capsize=3,
        )  # fmt: skip
        axis.set(
            title=f"{ABLATED}, PPO++: {metric}", xlabel="beta, share of guided starts",
            xticks=list(BETAS),
        )  # fmt: skip
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
