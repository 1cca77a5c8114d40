"""The results as a page: `benchmark.md` beside `benchmark.json`, nothing in it typed by hand."""

from __future__ import annotations

from typing import Any

__all__ = ["page"]

_HEAD = """# Benchmark

Written by `python examples/benchmark.py`; what is compared and how stands in
`examples/benchmarks/<part>.py`. "x" is how many times as fast the first is as the second: the
median over rounds in which both took turns on the same machine, and the quartiles. Only such ratios
carry over to other machines.
"""


def page(results: dict[str, Any]) -> str:
    """Return the Markdown page of the content of `benchmark.json`."""
    parts = [_HEAD]
    for name, part in results.items():
        if "rows" in part:
            parts.append(_section(name, part) + _table(part["rows"]))
        elif "points" in part:
            parts.append(_section(name, part) + _memory(part))
        elif "turns_per_second" in part:
            parts.append(_section(name, part) + _turns(part["turns_per_second"]))
        elif "contenders" in part:
            parts.append(_section(name, part) + _real_model(part))
        elif "final" in part:
            parts.append(_section(name, part) + _peers(part))
    return "\n".join(parts)


def _section(name: str, part: dict[str, Any]) -> str:
    machine = part["machine"]
    versions = ("python", "numpy", "gymnasium", "torch", "transformers", "stable-baselines3")
    return (
        f"## {name}\n\n`{part['command']}` on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}; seed {part['seed']}, threads "
        f"{part['threads']}; {', '.join(f'{v} {machine[v]}' for v in versions)}\n\n"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| case | ours | against | x | quartiles | target | speeds |", "|" + "---|" * 7]
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:.2g}"
        lines.append(
            f"| {row['case']} | {row['ours']} | {row['against']} | {row['ratio']:.2f} | "
            f"{row['low']:.2f} to {row['high']:.2f} | {target} | "
            f"{row['speed']:,.0f}, {row['other_speed']:,.0f} {row['unit']} |"
        )
    return "\n".join(lines) + "\n"


def _memory(part: dict[str, Any]) -> str:
    lines = ["| episodes | T | peak, MiB |", "|---|---|---|"]
    lines += [
        f"| {p['episodes']} | {p['max_tokens']} | {p['peak_mib']:.1f} |" for p in part["points"]
    ]
    line = part["line"]
    lines.append(
        f"\nA line through them: {line['kib_per_token']} KiB a token, R² = {line['r_squared']}, "
        f"largest residual {line['largest_residual_mib']} MiB."
    )
    return "\n".join(lines) + "\n"


def _real_model(part: dict[str, Any]) -> str:
    """Return the ratios and what each contender took."""
    lines = [
        f"Weights {part['weights']}; {part['sequences']} sequences of {part['prompt']} + "
        f"{part['tokens']} tokens a step, {part['updates']} steps.\n",
        "| ratio | x | at most |",
        "|---|---|---|",
    ]
    lines += [f"| {r['of']} | {r['ratio']:.2f} | {r['most'] or ''} |" for r in part["ratios"]]
    lines += ["", "| contender | peak, MiB | CPU seconds |", "|---|---|---|"]
    for row in part["contenders"]:
        seconds = ", ".join(f"{name} {value:.2f}" for name, value in row["cpu_seconds"].items())
        lines.append(f"| {row['what']} | {row['peak_mib']:,.0f} | {seconds} |")
    return "\n".join(lines) + "\n"


def _turns(table: dict[str, dict[str, int]]) -> str:
    """Return turns a second: variants down, numbers of environments across."""
    sizes = list(next(iter(table.values())))
    lines = [
        "Whole Wordle turns a second through the native vector environment.\n",
        "| variant | " + " | ".join(f"{size} envs" for size in sizes) + " |",
        "|" + "---|" * (len(sizes) + 1),
    ]
    for variant, rates in table.items():
        lines.append(f"| {variant} | " + " | ".join(f"{rates[n]:,}" for n in sizes) + " |")
    return "\n".join(lines) + "\n"


def _peers(part: dict[str, Any]) -> str:
    """Return the times to the goal, in the order of the seeds, and the settings they were with."""
    lines = [
        f"Mean reward {part['goal']} on the bundled model.\n",
        "| method | learning rate | steps an iteration | seconds, by seed | processor seconds |",
        "|" + "---|" * 5,
    ]
    for method in part["seconds"]["to_goal"]:
        run = next(run for run in part["final"] if run["method"] == method)
        lines.append(
            f"| {method} | {run['rate']:g} | {run['steps']} | "
            f"{_numbers(part['seconds']['to_goal'][method])} | "
            f"{_numbers(part['cpu_seconds']['to_goal'][method])} |"
        )
    for name, ratios in part["seconds"]["times_as_fast_as"].items():
        middle = sorted(ratios)[len(ratios) // 2]
        lines.append(f"\nPPO / TRL, {name}: {middle:.2f} x ({_numbers(ratios)})")
    return "\n".join(lines) + "\n"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
