"""The study on KL control runs; what it finds is no matter of a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kl_control")
    command = [sys.executable, str(EXAMPLES / "study_kl_control.py"), "--smoke", "--seeds", "1"]
    command += ["--workers", "1", "--work", str(folder), "--out", str(folder / "kl.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (folder / "kl.png").stat().st_size > 10_000
    return json.loads((folder / "kl.json").read_text(encoding="utf-8"))


@pytest.mark.long
def test_every_method_at_every_beta(found: Any) -> None:
    toy = {(x["method"], x["beta"]) for x in found["over_seeds"] if "Toy" in x["task"]}
    assert toy == {
        *((method, beta) for method in ("PPO", "RLOO") for beta in (0.0, 0.1, 0.5, 1.0)),
        *(("DPG", beta) for beta in (0.1, 0.5, 1.0)),
    }
    reviews = {(x["method"], x["beta"]) for x in found["over_seeds"] if "Reviews" in x["task"]}
    methods = ("initial model", "PPO", "RLOO")
    assert reviews == {("DPG", 0.1), *((m, beta) for m in methods for beta in (0.0, 0.1))}


@pytest.mark.long
def test_measures_of_the_posterior_need_a_penalty(found: Any) -> None:
    for line in found["over_seeds"]:
        assert ("kl_pi_p" in line) == ("kl_p_pi" in line) == (line["beta"] > 0)
        assert line["kl_prior"] > -1e-3
    reviews = [line for line in found["over_seeds"] if "Reviews" in line["task"]]
    assert all({"distinct_1", "self_bleu", "length"} <= line.keys() for line in reviews)


@pytest.mark.long
def test_the_initial_model_is_at_its_own_place(found: Any) -> None:
    first = [line for line in found["over_seeds"] if line["method"] == "initial model"]
    assert all(abs(line["kl_prior"]) < 1e-5 for line in first)


@pytest.mark.long
def test_rows_name_no_place_of_this_machine(found: Any) -> None:
    assert "/tmp" not in json.dumps(found["rows"])
