"""Write docs/results/studies.md: the tables of all studies, from their JSON files.

    python examples/results.py

Each cell is a mean over seeds and the half width of its 95% interval (Student's t); a bare number
is of one seed. The studies write the JSON files; this only lays them out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results"

Line = Mapping[str, Any]

INTRODUCTION = """# Studies

Written by `python examples/results.py` from the JSON files beside it, each of which a study wrote
with the command named here. A cell is the mean over seeds ± the half width of its 95% interval
(Student's t); a cell without ± is one seed, or was not trained.
"""


def cell(line: Line, metric: str, digits: int = 3) -> str:
    """Return mean ± half width, or nothing where there is no such number."""
    mean, half = line.get(metric), line.get(f"{metric}_half_width_95")
    if mean is None or not math.isfinite(mean):
        return ""
    if half is None or not math.isfinite(half):
        return _number(mean, digits)
    return f"{_number(mean, digits)} ± {_number(half, digits)}"


def _number(value: float, digits: int) -> str:
    """Return the number, in powers of ten if these digits would all be 0."""
    if value == 0:
        return "0"
    return f"{value:.{digits}f}" if abs(value) >= 0.5 * 10**-digits else f"{value:.0e}"


def table(
    lines: Sequence[Line],
    keys: Sequence[str],
    metrics: Mapping[str, str],
    digits: int = 3,
) -> str:
    """Return a table with a row a line; `metrics` maps names to headings."""
    shown = [m for m in metrics if any(line.get(m) is not None for line in lines)]
    rows = [[*keys, *(metrics[m] for m in shown)], ["---"] * (len(keys) + len(shown))]
    for line in lines:
        named = [str(line.get(key, "")).removeprefix("text_envs/") for key in keys]
        rows.append([*named, *(cell(line, m, digits) for m in shown)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def pivot(lines: Sequence[Line], metric: str, rows: str, columns: str, digits: int = 3) -> str:
    """Return a table of one metric with a row for each of one key, a column for each of another."""
    names = list(dict.fromkeys(str(line[columns]) for line in lines))
    out = [[rows, *names], ["---"] * (1 + len(names))]
    for name in dict.fromkeys(line[rows] for line in lines):
        found = {str(line[columns]): line for line in lines if line[rows] == name}
        out.append([str(name), *(cell(found.get(c, {}), metric, digits) for c in names)])
    return "\n".join("| " + " | ".join(row) + " |" for row in out)


# -- the studies --------------------------------------------------------------------------------


def quickstart(content: Any) -> list[str]:
    """Return the tables of the example that everybody runs first."""
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in content["over_seeds"]:
        line = lines.setdefault((one["method"],), {"method": one["method"]})
        line[one["metric"]] = one["mean"]
        line[f"{one['metric']}_half_width_95"] = one["half_width_95"]
    metrics = {name: name.replace("_", " ") for line in lines.values() for name in line}
    metrics = {
        k: v for k, v in metrics.items() if k != "method" and not k.endswith("half_width_95")
    }
    return [table(list(lines.values()), ["method"], metrics)]


def offline(content: Any) -> list[str]:
    """Return the tables of offline learning."""
    return [
        "Score: 0 is chance and 1 the expert.",
        pivot(content["over_seeds"], "score", "task", "method"),
        "Adversarial Wordle: in how many pairs of first words the expert's has the higher value, "
        "by tau; *exact* is the least loss over the same games, no network.",
        pivot(content["adversarial"], "accuracy", "method", "tau"),
        "Strength of the guidance, score by beta.",
        *(
            f"{task}:\n\n" + pivot([x for x in content["beta_sweep"] if x["task"] == task],
                                   "score", "method", "beta")
            for task in dict.fromkeys(line["task"] for line in content["beta_sweep"])
        ),
    ]  # fmt: skip


def kl_control(content: Any) -> list[str]:
    """Return the table of KL control."""
    metrics = {
        "reward": "reward", "kl_prior": "KL to the prior", "entropy": "entropy",
        "kl_pi_p": "KL(pi ‖ p*)", "kl_p_pi": "KL(p* ‖ pi)", "distinct_2": "distinct-2",
        "self_bleu": "self-BLEU", "length": "length", "ess": "effective texts",
    }  # fmt: skip
    return [
        "On Reviews-v0 log Z comes from 128 texts of the prior a prompt, the same for all seeds. "
        "How many of them count at a beta is in the last column; the intervals do not hold this "
        "error.",
        table(content["over_seeds"], ("task", "method", "beta"), metrics),
    ]


def rcfd(content: Any) -> list[str]:
    """Return the tables of calibration from demonstrations."""
    judges = ", ".join(f"{task}: {judge}" for task, judge in content["judges"].items())
    metrics = {
        "reward": "reward", "A": "A (nats)", "judge": "judge", "kl_prior": "KL to the start",
        "length": "length", "distinct_2": "distinct-2", "self_bleu": "self-BLEU",
    }  # fmt: skip
    exploit = {
        "reward": "reward", "good_share": "good texts", "exploit_share": "exploits",
        "calibrated_reward": "calibrated reward",
    }  # fmt: skip
    return [
        f"A is KL(rewards of demonstrations ‖ rewards of texts). Judges: {judges}.",
        table(content["over_seeds"], ("task", "method", "beta", "alpha"), metrics),
        "What calibration cannot see: an exploit that earns `bonus`, demonstrations earn 1.",
        table(content["exploit"], ("method", "bonus"), exploit),
    ]


def rlgf(content: Any) -> list[str]:
    """Return the tables of guided feedback."""
    metrics = {
        "reward": "reward", "vader": "VADER", "coverage": "coverage", "bleu": "BLEU",
        "rouge": "ROUGE-L", "meteor": "METEOR", "kl": "KL to SFT", "perplexity": "perplexity",
        "distinct_2": "distinct-2", "guide_calls": "guide calls", "guide_rows": "guide queries",
    }  # fmt: skip
    tasks = dict.fromkeys(line["task"] for line in content["over_seeds"])
    return [
        *(
            f"{task}:\n\n" + table([x for x in content["over_seeds"] if x["task"] == task],
                                   ("method",), metrics)
            for task in tasks
        ),
        "PPO++ by beta, the share of texts that the guide begins.",
        table(content["over_betas"], ("task", "beta"), metrics),
    ]  # fmt: skip


def hir(content: Any) -> list[str]:
    """Return the tables of hindsight instruction relabelling."""
    metrics = {
        "accuracy": "accuracy", "accuracy_train": "on training questions",
        "accuracy_asked_wrong": "when asked to be wrong",
    }  # fmt: skip
    return [
        "Share of right greedy answers to questions whose contexts nobody trained on.",
        pivot(content["over_seeds"], "accuracy", "task", "method"),
        "Average over the tasks.",
        table(content["averages"], ("method",), metrics),
        "HIR without each of its parts.",
        pivot(content["ablation"], "accuracy", "task", "method"),
        "Three times the iterations.",
        table(content["longer"], ("task", "method", "rounds"), metrics),
    ]


def her(content: Any) -> list[str]:
    """Return the table of HIR beside DQN with HER."""
    metrics = {
        "asked_right": "asked to be right", "asked_wrong": "asked to be wrong",
        "held_out": "right on the test split",
    }  # fmt: skip
    return [
        "Share of greedy answers that are what was asked for, from random weights.",
        table(content["over_seeds"], ("task", "method"), metrics),
    ]


STUDIES: Mapping[str, tuple[str, Callable[[Any], list[str]]]] = {
    "quickstart": ("PPO on film reviews", quickstart),
    "offline": ("Offline learning", offline),
    "kl_control": ("KL penalties as Bayesian inference", kl_control),
    "rcfd": ("Reward calibration from demonstrations", rcfd),
    "rlgf": ("Guided feedback", rlgf),
    "hir": ("Hindsight instruction relabelling", hir),
    "her": ("HIR and Stable-Baselines3's HER", her),
}


def render(folder: Path = RESULTS) -> str:
    """Return the page for the JSON files that are there."""
    parts = [INTRODUCTION]
    for name, (title, tables) in STUDIES.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        parts += [f"## {title}\n", f"`{content['command']}` on {content['machine']}\n"]
        parts += [f"{part}\n" for part in tables(content)]
        parts += [f"![{title}]({name}.png)\n"]
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    (RESULTS / "studies.md").write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
