"""Reward calibration from demonstration (RCfD) against penalties tuned by hand, and where it ends.

    python examples/study_rcfd.py            # about half an hour on one core
    python examples/study_rcfd.py --quick    # about two minutes

Four use cases of a reward that can be over-optimised: likelihood, sentiment, a preference, and a
preference with a length. RCfD is trained once, with one setting for all; PPO with a sweep of KL
penalties (and of the weight of the length), of which the best is chosen by what it came to on the
test prompts. Then an exploit that calibration cannot see. Writes docs/results/rcfd.json and .png.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

from studies import rcfd
from studies.harness import Job, arguments, command_of, over_seeds, report, run_stage, size_of
from studies.rcfd_exploit import exploit

METRICS = (
    "reward", "reward_std", "demo_reward", "demo_std", "gap", "A", "A_preference", "A_length",
    "judge", "facts", "kl_prior", "length", "distinct_1", "distinct_2", "self_bleu",
    "between_prompts",
)  # fmt: skip
EXPLOIT_METRICS = ("reward", "good_share", "exploit_share", "calibrated_reward")
KEYS = ("task", "method", "beta", "alpha")
# Where demonstrations are texts of the model itself, no penalty is too large for the likelihood.
BETAS: Mapping[str, Sequence[float]] = {
    "preference": (0.03, 0.1, 0.3),
    "sentiment": (0.5, 1.0, 2.0),
    "likelihood": (1.0, 10.0),
}
ALPHAS = (0.02, 0.1)
# Of 64 texts: until the reward alone has left the demonstrations behind.
ITERATIONS = {"likelihood": 40, "sentiment": 40, "preference": 70}
BOTH = "preference + length"
JUDGES = {
    "likelihood": "distinct word pairs",
    "sentiment": "VADER",
    "preference": "ROUGE-L",
    BOTH: "ROUGE-L",
}
COLOURS = {
    "demonstrations": "0.6", "initial model": "black", "RCfD": "tab:green",
    "PPO, reward only": "tab:red", "PPO, tuned": "tab:blue", "PPO": "tab:blue",
}  # fmt: skip


def jobs_of(
    task: str,
    settings: Sequence[Mapping[str, float]],
    seeds: int,
    iterations: int,
    prompts: int,
    **files: str,
) -> list[Job]:
    """Return the jobs of a use case: PPO with each of `settings`, RCfD, and what is not trained."""

    def job(method: str, seed: int, count: int, **setting: float) -> Job:
        given = {"task": task, "method": method, "seed": seed, "iterations": count}
        given["prompts"] = prompts
        return Job(rcfd.train, {**given, "beta": 0.0, "alpha": 0.0, **setting, **files})

    return [
        job("demonstrations", 0, 0),
        *(job("initial model", seed, 0) for seed in range(seeds)),
        *(job("RCfD", seed, iterations) for seed in range(seeds)),
        *(job("PPO", seed, iterations, **one) for one in settings for seed in range(seeds)),
    ]


def tuned(summary: Sequence[Mapping[str, Any]], task: str, by: str) -> Mapping[str, Any]:
    """Return the line of PPO with a penalty that is best by A (low) or by the judge (high)."""
    lines = [
        line
        for line in summary
        if line["task"] == task and line["method"] == "PPO" and (line["beta"] or 0) > 0
    ]
    return min(lines, key=lambda line: line["A"] if by == "A" else -line["judge"])


def main() -> None:
    """Run all jobs and write the report."""
    args = arguments(__doc__, "rcfd", seeds=3).parse_args()
    quick, seeds = args.quick, args.seeds
    work = args.work / size_of(args)
    prompts, episodes, epochs = (64, 256, 1) if quick else (2048, 8192, 5)
    iterations = dict.fromkeys(ITERATIONS, 2) if quick else ITERATIONS
    test_prompts = 32 if quick else 256

    praise = Job(
        rcfd.rejection,
        {
            "task": "sentiment",
            "seed": 0,
            "prompts": prompts,
            "test_prompts": test_prompts,
            "rounds": 64,
        },
    )
    clone = Job(
        rcfd.cloned, {"task": "preference", "seed": 0, "episodes": episodes, "epochs": epochs}
    )
    prepared = run_stage([praise, clone], work, args.workers)
    files = {
        "likelihood": {},
        "sentiment": {"demos": str(praise.folder(work) / "demonstrations.json")},
        "preference": {"start": str(clone.folder(work) / "model")},
    }
    jobs = [
        job
        for task, betas in BETAS.items()
        for job in jobs_of(
            task,
            [{"beta": beta} for beta in (0.0, *(betas[:1] if quick else betas))],
            seeds,
            iterations[task],
            test_prompts,
            **files[task],
        )
    ]
    jobs += [
        Job(exploit, {"task": "exploit", "method": method, "bonus": bonus, "seed": seed} | tokens)
        for tokens in [{"tokens": 2_000 if quick else 20_000}]
        for method, bonus in (("PPO", 2.0), ("RCfD", 2.0), ("RCfD", 1.0))
        for seed in range(seeds)
    ]
    rows = run_stage(jobs, work, args.workers)
    # The weighted sum gets the penalty that is best without a length.
    beta = tuned(over_seeds(rows, METRICS, KEYS), "preference", "A")["beta"]
    alphas = ALPHAS[-1:] if quick else ALPHAS
    settings = [{"beta": 0.0, "alpha": ALPHAS[-1]}, *({"beta": beta, "alpha": a} for a in alphas)]
    last = jobs_of(
        BOTH, settings, seeds, iterations["preference"], test_prompts, **files["preference"]
    )
    rows += run_stage(last, work, args.workers)
    jobs += last

    trained = [row for row in rows if row["task"] != "exploit"]
    summary = over_seeds(trained, METRICS, KEYS)
    exploits = [row for row in rows if row["task"] == "exploit"]
    chosen = {
        task: {by: dict(tuned(summary, task, by)) for by in ("A", "judge")} for task in rcfd.CASES
    }
    for row in rows:
        for name in ("start", "demos"):  # paths of this machine
            row.pop(name, None)
    report(
        args.out,
        command_of(args),
        [{k: v for k, v in row.items() if k != "curve"} for row in prepared + rows],
        judges=JUDGES,
        over_seeds=summary,
        tuned=chosen,
        exploit=over_seeds(exploits, EXPLOIT_METRICS, ("task", "method", "bonus")),
    )
    draw(list(zip(jobs, rows, strict=True)), summary, chosen, work, args.out.with_suffix(".png"))
    for line in summary:
        shown = {m: line[m] for m in ("reward", "A", "judge", "kl_prior", "length") if m in line}
        print(*(line[key] for key in KEYS), shown)
    for line in over_seeds(exploits, EXPLOIT_METRICS, ("method", "bonus")):
        print("exploit", line)


# -- the picture --------------------------------------------------------------------------------


def draw(
    done: Sequence[tuple[Job, Mapping[str, Any]]],
    summary: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, Mapping[str, Mapping[str, Any]]],
    work: Path,
    path: Path,
) -> None:
    """Draw for each use case the rewards against the demonstrations', and the reward over A."""
    figure = Figure(figsize=(17, 8), layout="constrained")
    axes = figure.subplots(2, len(rcfd.CASES))
    for column, (task, case) in enumerate(rcfd.CASES.items()):
        name = next(iter(case.rewards))
        best = chosen[task]["A"]
        _histograms(axes[0, column], _rewards(done, task, best, work, name))
        axes[0, column].set(title=task, xlabel=f"reward: {name}", ylabel="density")
        lines = [line for line in summary if line["task"] == task]
        _reward_over_a(axes[1, column], lines, "alpha" if task == BOTH else "beta")
        axes[1, column].set(xlabel="A, nats (0: as demonstrations)", ylabel=f"reward: {name}")
    axes[0, 0].legend(fontsize=8)
    handles = [
        axes[1, 0].plot([], [], "o", color=COLOURS[name], label=name)[0]
        for name in ("initial model", "RCfD", "PPO, reward only", "PPO")
    ]
    axes[1, 0].legend(handles=handles, fontsize=8)
    figure.savefig(path, dpi=100)


def _rewards(
    done: Sequence[tuple[Job, Mapping[str, Any]]],
    task: str,
    best: Mapping[str, Any],
    work: Path,
    name: str,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the rewards of all seeds by what the picture calls their method."""
    found: dict[str, list[Any]] = {}
    for job, row in done:
        path = job.folder(work) / "rewards.npz"
        if row["task"] != task or not path.exists():
            continue
        with np.load(path) as saved:
            raw, demo = saved[f"raw/{name}"], saved[f"demo/{name}"]
        method = row["method"]
        if method == "PPO":
            if row["beta"] == 0:
                method = "PPO, reward only"
            elif (row["beta"], row["alpha"]) == (best["beta"], best["alpha"]):
                method = "PPO, tuned"
            else:
                continue
        found.setdefault("demonstrations", []).append(demo)
        found.setdefault(method, []).append(raw)
    return {method: np.concatenate(parts) for method, parts in found.items()}


def _histograms(axis: Axes, rewards: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Draw densities; what is far from the demonstrations is shown at the edge."""
    demo = rewards["demonstrations"]
    low, high = demo.mean() - 6 * demo.std(), demo.mean() + 6 * demo.std()
    every = np.clip(np.concatenate(list(rewards.values())), low, high)
    bins = np.linspace(every.min(), every.max() + 1e-9, 41)
    for method, values in rewards.items():
        filled = method == "demonstrations"
        axis.hist(
            np.clip(values, low, high), bins, density=True, color=COLOURS[method], label=method,
            histtype="stepfilled" if filled else "step", linewidth=1.5,
        )  # fmt: skip
    highest = np.histogram(demo, bins, density=True)[0].max()
    axis.set_ylim(0, 3 * highest)  # a collapsed policy is a spike without end


def _reward_over_a(axis: Axes, lines: Sequence[Mapping[str, Any]], swept: str) -> None:
    for line in lines:
        method = line["method"]
        if method == "demonstrations":
            axis.axhline(line["reward"], color=COLOURS[method])
            continue
        if method == "PPO" and line["beta"] == 0:
            method = "PPO, reward only"
        axis.errorbar(
            line["A"], line["reward"], xerr=line.get("A_half_width_95"),
            yerr=line.get("reward_half_width_95"), fmt="o", color=COLOURS[method], capsize=2,
        )  # fmt: skip
        if method == "PPO":
            axis.annotate(f"{swept} {line[swept]:g}", (line["A"], line["reward"]), fontsize=8)


if __name__ == "__main__":
    main()
