"""Run every recipe of this folder in an environment of its own, and write what came of it.

    python examples/interop/run.py                   # all; what is installed already is kept
    python examples/interop/run.py --only tianshou   # one; the rows of the others stay

Needs Python's own library only. Each name of `RECIPES` gets `.venv-<name>` with what
`requirements-<name>.txt` lists, and `constraints.txt` for all below it, less what that file gives
a version of its own. A library that cannot be installed is a row with the reason, no error; a
recipe that fails is one. Rows go to docs/results/interop.json, the page is made of them alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "docs" / "results" / "interop.json"

# What is installed under each name, and the file that uses it. A file is not called after its
# library: Python would import it in the library's place.
RECIPES: Mapping[str, tuple[str, str]] = {
    "gymnasium-1.0": ("Gymnasium", "with_gymnasium.py"),
    "gymnasium-1.2": ("Gymnasium", "with_gymnasium.py"),
    "gymnasium": ("Gymnasium", "with_gymnasium.py"),
    "stable-baselines3": ("Stable-Baselines3", "with_sb3.py"),
    "sb3-contrib": ("sb3-contrib", "with_sb3_contrib.py"),
    "cleanrl-style": ("torch, in CleanRL's style", "with_plain_torch.py"),
    "tianshou": ("Tianshou", "with_tianshou.py"),
    "torchrl": ("TorchRL", "with_torchrl.py"),
    "rllib": ("RLlib", "with_rllib.py"),
    "d3rlpy": ("d3rlpy", "with_d3rlpy.py"),
    "minari": ("Minari", "with_minari.py"),
}  # fmt: skip

INTRODUCTION = """# Other libraries

Written by `python examples/interop/run.py` (`make interop`) from interop.json beside it. Each
library has a virtual environment of its own; its recipe in `examples/interop` is short enough to
copy. The best mean return of `Toy-v0` is 1.5, that of uniformly random words 0.54.

A row says that a library works with these environments, not how well a method does: settings were
adjusted until a recipe worked, MaskablePPO's on the very seeds shown. Rows are kept until their
recipe runs again, so they can be of different commits.
"""


def own_versions(requirements: str) -> set[str]:
    """Return the packages to which a requirements file gives versions of its own."""
    lines = (line.split("#")[0].split(";")[0] for line in requirements.splitlines())
    found = (re.match(r"\s*([A-Za-z0-9._-]+)(?:\[.*\])?\s*[=<>!~]", line) for line in lines)
    return {match[1].lower() for match in found if match}


def constraints_for(constraints: str, requirements: str) -> str:
    """Return the constraints less those of packages that the requirements give versions."""
    own = own_versions(requirements)
    lines = constraints.splitlines()
    return "\n".join(line for line in lines if line.split("==")[0].lower() not in own) + "\n"


def last_words(text: str, limit: int | None = 300) -> str:
    """Return the line of an output that says most about why it ended: pip's error, or the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line.replace(os.fspath(ROOT), ".") for line in lines]  # the page is for everybody
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no output"])[0 if errors else -1][:limit]


def install(name: str, python: str) -> str:
    """Make the environment of a name; return why it cannot be made, or nothing."""
    venv = ROOT / f".venv-{name}"
    own = HERE / f"requirements-{name}.txt"
    limits = constraints_for((ROOT / "constraints.txt").read_text("utf-8"), own.read_text("utf-8"))
    stamp, content = venv / ".installed", own.read_text("utf-8") + limits
    if stamp.exists() and stamp.read_text("utf-8") == content:
        return ""
    commands: list[list[str]] = []
    if not (venv / "bin" / "python").exists():
        commands.append([python, "-m", "venv", os.fspath(venv)])
    pip = [os.fspath(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    kept = os.fspath(venv / "constraints.txt")
    commands += [
        [*pip, "--constraint", kept, "--requirement", os.fspath(own)],
        [*pip, "--no-deps", "--editable", os.fspath(ROOT)],
    ]
    for command in commands:
        if venv.exists():
            Path(kept).write_text(limits, "utf-8")
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            return last_words(done.stdout + done.stderr)
    stamp.write_text(content, "utf-8")
    return ""


def run(name: str, timeout: float) -> dict[str, Any]:
    """Run a recipe; its last line is its row."""
    venv_python = os.fspath(ROOT / f".venv-{name}" / "bin" / "python")
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [venv_python, os.fspath(HERE / RECIPES[name][1])],
            capture_output=True, text=True, cwd=ROOT, timeout=timeout,
            env={**os.environ, "PATH": f"{Path(venv_python).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"not done after {timeout:.0f} s"}
    seconds = round(time.perf_counter() - start, 1)
    if done.returncode:
        reason = last_words(done.stderr or done.stdout)
        return {"status": "failed", "reason": reason, "seconds": seconds}
    last = last_words(done.stdout, limit=None)
    try:
        return {"status": "ok", **json.loads(last), "seconds": seconds}
    except ValueError:
        reason = f"the last line is no row of JSON: {last}"[:300]
        return {"status": "failed", "reason": reason, "seconds": seconds}


def render(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page."""
    table = [
        "| library | version | Gymnasium | what ran | result | seeds | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: [*RECIPES].index(item[0])):
        library, file = RECIPES[name]
        version, gym = row.get("version", ""), row.get("versions", {}).get("gymnasium", "")
        ran = "; ".join(row.get("ran", ())) + f" ([{file}](../../examples/interop/{file}))"
        result = row.get("result") or f"{row['status']}: {row['reason']}"
        seeds = ", ".join(map(str, row.get("seeds", ())))
        cells = [library, version, gym, ran.strip(), result, seeds, str(row.get("seconds", ""))]
        table.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    places = dict.fromkeys(row["machine"] for row in rows.values())
    note = "Seconds are of the recipe alone, and depend on what else runs there."
    return "\n".join([INTRODUCTION, *table, "", f"Machine: {'; '.join(places)}. {note}", ""])


def machine() -> str:
    """Return what the seconds depend on, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}"


def chosen(only: Iterable[str] | None) -> list[str]:
    """Return the names to run; refuse unknown ones."""
    names = list(only or RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; accepted: {', '.join(RECIPES)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, run, write; return 1 if a recipe failed."""
    parser = argparse.ArgumentParser(description="Recipes for other libraries, each run.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--python", default=sys.executable, help="makes the environments")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one recipe")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    failed = False
    for name in chosen(args.only):
        print(f"{name}: ", end="", flush=True)
        reason = install(name, args.python)
        row = {"status": "skipped", "reason": reason} if reason else run(name, args.timeout)
        print(row["status"], row.get("result") or row["reason"], flush=True)
        failed |= row["status"] == "failed"
        # Read again each time: rows of others may have been written meanwhile.
        rows = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {}
        rows = {n: r for n, r in rows.items() if n in RECIPES} | {name: row}
        row |= {"command": f"python examples/interop/run.py --only {name}", "machine": machine()}
        args.out.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
        args.out.with_suffix(".md").write_text(render(rows), "utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
