"""The page on real models runs as it stands, with a small model in the place of a large one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chat_models import chat_folder, chat_tokenizer

ROOT = Path(__file__).parents[2]
NAME = "SmolLM2-135M-Instruct"

pytest.importorskip("peft")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from models import tiny_llama

    return chat_folder(tmp_path / NAME, tiny_llama(len(chat_tokenizer()), positions=192))


def test_page(folder: Path) -> None:
    page = (ROOT / "docs" / "real_models.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=folder.parent, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder.parent / "friendly" / "model.safetensors").exists()


@pytest.mark.long
def test_example_goes_on_where_it_was_interrupted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "examples" / "real_model.py"), "--quick"]
    command += ["--model", str(folder), "--out", str(out)]

    def run(tokens: int) -> None:
        line = [*command, "--tokens", str(tokens)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    run(100)
    first = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    run(180)
    second = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert len(first["curve"]) < len(second["curve"])
    assert second["curve"][: len(first["curve"])] == first["curve"]
    assert first["before"] == second["before"]
    assert {"curve.png", "episodes.html", "model"} <= {path.name for path in out.iterdir()}
