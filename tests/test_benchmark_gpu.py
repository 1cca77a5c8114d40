"""The script for a GPU runs: with tiny models on the CPU, and saying so where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "benchmark_gpu.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, os.fspath(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.long
def test_the_script_runs_on_the_cpu(tmp_path: Path) -> None:
    done = run("--quick", "--out", os.fspath(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert not [name for name, part in results["parts"].items() if part and "error" in part]
    updates = [part for name, part in results["parts"].items() if name.startswith("updates/")]
    assert [part["algorithm"] for part in updates] == ["PPO", "RLOO", "DPG", "BC", "ILQL"]
    for part in updates:
        assert part["agree"] and part["losses"] and part["parameters"] > 1000
    (speed,) = (part for name, part in results["parts"].items() if name.startswith("speed/"))
    pairs = [(row["ours"], row["against"]) for row in speed["rows"]]
    assert pairs == [("roll-out", "generate"), ("PPO.train", "bare pass")]
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page.count("| agree |") == 5 and "Not measured" not in page
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.md"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which would be measured")
def test_the_page_says_where_there_was_no_gpu(tmp_path: Path) -> None:
    done = run("--out", os.fspath(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stderr
    assert "No GPU was at hand" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["device"] is None


def test_differences_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or every device would agree with the CPU."""
    monkeypatch.syspath_prepend(os.fspath(ROOT / "examples"))
    from benchmarks import gpu_checks

    update = gpu_checks._update
    calls = []

    def second_is_off(agent: object, given: object) -> object:
        losses, grads = update(agent, given)
        calls.append(1)
        return losses, grads * (1.002 if len(calls) == 2 else 1.0)

    monkeypatch.setattr(gpu_checks, "_update", second_is_off)
    found = gpu_checks.compare_updates("BC", "cpu", 4)
    assert found["gradient_error"] == pytest.approx(0.002, rel=1e-3) and not found["agree"]
