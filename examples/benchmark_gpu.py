"""Check and measure the agents on a GPU, in under 8 minutes; write docs/results/gpu.md.

    python examples/benchmark_gpu.py                       # random weights of SmolLM2-135M's shape
    python examples/benchmark_gpu.py --model FOLDER        # its own weights
    python examples/benchmark_gpu.py --quick --out gpu.json  # tiny models, on the CPU where need be

Correctness: PPO, RLOO, DPG, BC and ILQL compute the same losses and gradients as on the CPU. Waits:
how often the host waits for the GPU a token. Speed: roll-outs against `generate`, updates against a
bare forward and backward pass, with SmolLM2-135M and a model of 1.7 billion parameters. What is
compared and how stands in `examples/benchmarks/gpu_checks.py` and `gpu_speed.py`.

The results are written after every part, each time whole; what no time is left for is named there.
Where there is no GPU, nothing is measured without `--quick`, and the page says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Parts that would begin later than this are left out: the longest takes about two minutes.
_LAST_START = 330.0


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder of SmolLM2-135M; without it, random weights")
    parser.add_argument("--quick", action="store_true", help="tiny models; the numbers say nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "gpu.json")
    return parser.parse_args()


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the results and their page, each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in (
        (path, json.dumps(results, indent=1) + "\n"),
        (path.with_suffix(".md"), page(results)),
    ):
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, target)


def parts(quick: bool, model: str | None, device: str) -> Iterator[tuple[str, Any]]:
    """Yield the name of each part and what runs it; the most telling ones first."""
    from benchmarks import gpu_checks, gpu_speed

    rows, rounds = (4, 1) if quick else (32, 3)
    for name in gpu_checks.ALGORITHMS:
        yield f"updates/{name}", lambda n=name: gpu_checks.compare_updates(n, device, rows)
    yield "waits", lambda: gpu_checks.waits_of_decoding(device, rows, 8)
    for name, shape in (gpu_speed.TINY if quick else gpu_speed.SHAPES).items():
        folder = model if name.startswith("SmolLM2") else None
        yield (
            f"speed/{name}",
            lambda n=name, s=shape, f=folder: gpu_speed.measure_model(n, s, f, device, rounds),
        )


def page(results: dict[str, Any]) -> str:
    """Return the Markdown page of the results."""
    lines = [
        "# On a GPU\n",
        f"Written by `{results['command']}`; what is compared and how stands in "
        "`examples/benchmarks/gpu_checks.py` and `gpu_speed.py`.\n",
    ]
    if results["device"] is None:
        lines.append(
            "No GPU was at hand when this page was written: nothing here was measured on one. The "
            "command is sized for under 8 minutes where there is one. What is known without: the "
            "tests count every wait of the host on a pretended accelerator "
            "(`tests/lm/test_transfers.py`), and `tests/test_benchmark_gpu.py` runs this script "
            "with tiny models on the CPU."
        )
        return "\n".join(lines) + "\n"
    lines.append(f"Device: {results['device']}, PyTorch {results['torch']}.\n")
    if results["quick"]:
        lines.append("A quick run with tiny models: the numbers say nothing about speed.\n")
    found = results["parts"]
    lines += ["| update | losses differ by | gradients by | |", "|" + "---|" * 4]
    for part in (found[k] for k in found if k.startswith("updates/")):
        if "error" in part:
            continue
        verdict = "agree" if part["agree"] else "**differ**"
        lines.append(
            f"| {part['algorithm']} | {part['loss_error']:.1e} | {part['gradient_error']:.1e} | "
            f"{verdict} |"
        )
    if found.get("waits") is not None and "error" not in (found["waits"] or {}):
        lines.append(f"\nThe host waits {found['waits']['a_token']:.2f} times a token.")
    lines += [
        "\n| model | ours | against | x | quartiles | tokens/s | peak GiB |", "|" + "---|" * 7,
    ]  # fmt: skip
    for part in (found[k] for k in found if k.startswith("speed/")):
        peak = "" if part.get("peak_gib") is None else f"{part['peak_gib']:.1f}"
        for row in part.get("rows", ()):
            lines.append(
                f"| {row['case']}, weights {part['weights']} | {row['ours']} | {row['against']} | "
                f"{row['ratio']:.2f} | {row['low']:.2f} to {row['high']:.2f} | "
                f"{row['speed']:,.0f}, {row['other_speed']:,.0f} | {peak} |"
            )
    for name, part in found.items():
        if isinstance(part, dict) and "error" in part:
            lines.append(f"\nNot measured: {name}. {part['error']}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what there is time for; exit with 1 where a device disagrees with the CPU."""
    args = parse()
    begin = time.monotonic()
    sys.path.insert(0, str(Path(__file__).parent))
    import torch

    there = torch.cuda.is_available()
    device = "cuda" if there else "cpu"
    named = torch.cuda.get_device_name() if there else "the CPU, as there is no GPU"
    results: dict[str, Any] = {
        "command": " ".join(["python", "examples/benchmark_gpu.py", *sys.argv[1:]]),
        "device": named if there or args.quick else None,
        "torch": torch.__version__,
        "quick": args.quick,
        "parts": {},
    }
    write(args.out, results)
    if results["device"] is None:
        print(f"No GPU here: wrote {args.out.with_suffix('.md')}, which says so")
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, run in parts(args.quick, args.model, device):
        if time.monotonic() - begin > _LAST_START:
            results["parts"][name] = {"error": "No time was left."}
            continue
        try:
            found = run()
            results["parts"][name] = {"a_token": found} if isinstance(found, float) else found
        except Exception as error:  # the other parts are worth having all the same
            results["parts"][name] = {"error": f"{type(error).__name__}: {error}"}
        if there:
            torch.cuda.empty_cache()
        print(f"{time.monotonic() - begin:6.1f} s  {name}: {results['parts'][name]}", flush=True)
        write(args.out, results)
    write(args.out, results)
    print(f"Wrote {args.out} and {args.out.with_suffix('.md').name}")
    updates = [v for k, v in results["parts"].items() if k.startswith("updates/")]
    sys.exit(0 if all(part.get("agree") for part in updates) else 1)


if __name__ == "__main__":
    main()
