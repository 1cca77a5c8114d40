"""KL penalties as Bayesian inference: what reward alone collapses to, and what a penalty keeps.

    python examples/study_kl_control.py            # about an hour on 2 cores
    python examples/study_kl_control.py --quick    # a few minutes

PPO and RLOO with and without a KL penalty, and DPG, which matches the same posterior p* from the
other side: on Toy-v0 against the exact posterior, on Reviews-v0 with the bundled language model
against its estimate. Writes docs/results/kl_control.json and .png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

from studies import kl_control
from studies.harness import Job, arguments, command_of, over_seeds, report, run_stage, size_of

METRICS = (
    "reward", "kl_prior", "entropy", "kl_pi_p", "kl_p_pi", "distinct_1", "distinct_2",
    "distinct_3", "self_bleu", "length", "ess",
)  # fmt: skip
# Tokens of each agent on Toy-v0 and on Reviews-v0, and texts a prompt of the initial model.
SIZES = {"full": (120_000, 60_000, 128), "quick": (10_000, 3_000, 16), "smoke": (900, 300, 2)}
COLOURS = {"PPO": "tab:blue", "RLOO": "tab:orange", "DPG": "tab:green", "initial model": "black"}


def jobs_of(
    task: str, betas: Sequence[float], seeds: int, function: Any, **settings: Any
) -> list[Job]:
    """Return a job for each method, beta and seed; DPG has no target without a temperature."""
    return [
        Job(function, {"task": task, "method": method, "beta": beta, "seed": seed} | settings)
        for seed in range(seeds)
        for method in ("PPO", "RLOO", "DPG")
        for beta in betas
        if not (method == "DPG" and beta == 0)
    ]


def main() -> None:
    """Run all jobs and write the report."""
    args = arguments(__doc__, "kl_control", seeds=3, smoke=True).parse_args()
    size = size_of(args)
    work = args.work / size
    toy_tokens, tokens, per_prompt = SIZES[size]

    prior_job = Job(
        kl_control.prior_samples,
        {"task": kl_control.REVIEWS, "per_prompt": per_prompt, "seed": 0},
    )
    run_stage([prior_job], work)
    prior = str(prior_job.folder(work) / "prior.npz")
    toy_jobs = jobs_of(
        kl_control.TOY, (0.0, 0.1, 0.5, 1.0), args.seeds, kl_control.toy, tokens=toy_tokens
    )
    betas = (0.0, 0.05, 0.2) if size == "full" else (0.0, 0.1)
    review_jobs = [
        Job(
            kl_control.reviews,
            {
                "task": kl_control.REVIEWS,
                "method": "initial model",
                "beta": beta,
                "seed": 0,
                "tokens": 0,
                "learning_rate": 0.0,
                "prior": prior,
            },
        )
        for beta in betas
    ] + jobs_of(
        kl_control.REVIEWS,
        betas,
        args.seeds,
        kl_control.reviews,
        tokens=tokens,
        learning_rate=3e-4,
        prior=prior,
    )
    rows = run_stage(toy_jobs + review_jobs, work, args.workers)
    for row in rows:
        row.pop("prior", None)  # a path of this machine
    summary = over_seeds(rows, METRICS, keys=("task", "method", "beta"))
    report(
        args.out,
        command_of(args),
        [{k: v for k, v in row.items() if k != "curve"} for row in rows],
        over_seeds=summary,
    )
    draw(rows, summary, args.out.with_suffix(".png"))
    for line in summary:
        shown = {m: line[m] for m in METRICS[:5] if m in line}
        print(line["task"], line["method"], line["beta"], shown)


def draw(rows: list[dict[str, Any]], summary: list[dict[str, Any]], path: Path) -> None:
    """Draw collapse on Toy-v0, distance to the exact posterior, and reward against KL."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    toys = [row for row in rows if row["task"] == kl_control.TOY and row["seed"] == 0]
    for row in toys:
        x = [point["tokens"] for point in row["curve"]]
        style = "--" if row["beta"] == 0 else "-"
        if row["beta"] in (0.0, 0.5):
            label = f"{row['method']}, beta {row['beta']:g}"
            axes[0, 0].plot(
                x, [p["entropy"] for p in row["curve"]], style, label=label,
                color=COLOURS[row["method"]],
            )  # fmt: skip
        if row["beta"] == 0.5:
            axes[0, 1].semilogy(
                x, [p["kl_pi_p"] for p in row["curve"]], label=row["method"],
                color=COLOURS[row["method"]],
            )  # fmt: skip
    axes[0, 0].set(
        title="Toy-v0: reward alone collapses", xlabel="tokens", ylabel="entropy, nats a text"
    )
    axes[0, 1].set(
        title="Toy-v0, beta 0.5: distance to the exact posterior", xlabel="tokens",
        ylabel="KL(pi || p*), nats",
    )  # fmt: skip
    for axis, (x, y), title in (
        (axes[1, 0], ("kl_prior", "reward"), "Reviews-v0: reward against KL to the model"),
        (axes[1, 1], ("entropy", "self_bleu"), "Reviews-v0: diversity (lower right is diverse)"),
    ):
        for line in summary:
            if line["task"] == kl_control.REVIEWS and x in line:
                axis.errorbar(
                    line[x], line[y],
                    xerr=line.get(f"{x}_half_width_95"), yerr=line.get(f"{y}_half_width_95"),
                    fmt="o", color=COLOURS[line["method"]], capsize=2,
                )  # fmt: skip
                axis.annotate(f"{line['beta']:g}", (line[x], line[y]), fontsize=8)
        if x == "kl_prior":  # without a penalty it is a hundred times as large as with one
            axis.set_xscale("symlog", linthresh=0.1)
        axis.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "), title=title)
    handles = [
        axes[1, 0].plot([], [], "o", color=colour, label=name)[0]
        for name, colour in COLOURS.items()
    ]
    axes[1, 0].legend(handles=handles)
    axes[0, 0].legend()
    axes[0, 1].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
