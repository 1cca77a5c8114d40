"""The runner of recipes for other libraries, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from text_envs import exact

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "interop"
sys.path.insert(0, str(FOLDER))

import run as interop  # noqa: E402


def test_the_page_is_what_the_rows_say() -> None:
    rows = json.loads(interop.RESULTS.read_text("utf-8"))
    page = interop.RESULTS.with_suffix(".md").read_text("utf-8")
    assert page == interop.render(rows), "run python examples/interop/run.py"
    assert list(rows) and set(rows) == set(interop.RECIPES)
    for row in rows.values():
        assert row["command"].startswith("python examples/interop/run.py --only")
        assert row["status"] == "ok" or row["reason"]


def test_the_returns_that_the_page_compares_with_are_exact() -> None:
    best = exact.solve("text_envs/Toy-v0").value
    random = exact.solve("text_envs/Toy-v0", beta=1e6).value  # so dear that nothing is changed
    assert f"`Toy-v0` is {best}, that of uniformly random words {random:.2f}." in " ".join(
        interop.INTRODUCTION.split()
    )


@pytest.mark.parametrize("name", interop.RECIPES)
def test_every_name_has_a_recipe_and_a_list_with_exact_versions(name: str) -> None:
    recipe = FOLDER / interop.RECIPES[name][1]
    text = recipe.read_text("utf-8")
    compile(text, str(recipe), "exec")
    assert f"run.py --only {name.split('-1.')[0]}" in text
    lines = (FOLDER / f"requirements-{name}.txt").read_text("utf-8").splitlines()
    assert any("==" in line for line in lines)
    # A torch without a version would be the newest, with gigabytes for accelerators.
    torch = [line for line in lines if line.startswith("torch=")]
    assert torch in ([], ["torch==2.13.0"])


def test_every_file_belongs_to_a_name() -> None:
    recipes = {path.name for path in FOLDER.glob("with_*.py")}
    assert recipes == {file for _, file in interop.RECIPES.values()}
    lists = {path.name for path in FOLDER.glob("requirements-*.txt")}
    assert lists == {f"requirements-{name}.txt" for name in interop.RECIPES}


def test_versions_of_ones_own_replace_the_constraints() -> None:
    requirements = (
        "# note\nray[rllib]==2.0\nGymnasium==1.2.2; python_version > '3'\npandas<3\nnumpy\n"
    )
    assert interop.own_versions(requirements) == {"ray", "gymnasium", "pandas"}
    constraints = 'gymnasium==1.4.0\npandas==2.3.3; python_version < "3.11"\nnumpy==2.4.6\n'
    assert interop.constraints_for(constraints, requirements) == "numpy==2.4.6\n"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runner whose environments and lists lie in a folder of the test."""
    monkeypatch.setattr(interop, "HERE", tmp_path)
    monkeypatch.setattr(interop, "ROOT", tmp_path)
    (tmp_path / "constraints.txt").write_text("gymnasium==1.4.0\n", "utf-8")
    return tmp_path


def test_what_cannot_be_installed_is_a_row_with_its_reason(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    (scratch / "requirements-minari.txt").write_text("surely-not-there==1.0\n", "utf-8")
    out = scratch / "interop.json"
    kept = {"status": "ok", "version": "1", "result": "fine", "ran": [], "machine": "m"}
    out.write_text(json.dumps({"tianshou": kept, "forgotten": kept}), "utf-8")
    assert interop.main(["--only", "minari", "--out", str(out)]) == 0
    rows = json.loads(out.read_text("utf-8"))
    assert rows["tianshou"] == kept and set(rows) == {"tianshou", "minari"}
    assert rows["minari"]["status"] == "skipped"
    assert "surely-not-there" in rows["minari"]["reason"]
    assert "skipped: ERROR" in out.with_suffix(".md").read_text("utf-8")


@pytest.mark.parametrize(
    ("code", "status", "shown"),
    [
        ("import json; print('noise'); print(json.dumps({'result': 'fine'}))", "ok", "fine"),
        ("print('noise'); raise ValueError('no such thing')", "failed", "no such thing"),
        ("import time; time.sleep(60)", "failed", "not done after"),
        ("print('no row')", "failed", "no row"),
        ("", "failed", "no output"),
    ],
)
def test_a_recipe_is_run_and_its_failure_told(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, code: str, status: str, shown: str
) -> None:
    monkeypatch.setattr(interop, "RECIPES", {"mine": ("Mine", "with_mine.py")})
    monkeypatch.setattr(interop, "install", lambda name, python: "")
    (scratch / "with_mine.py").write_text(code, "utf-8")
    (scratch / ".venv-mine" / "bin").mkdir(parents=True)
    (scratch / ".venv-mine" / "bin" / "python").symlink_to(sys.executable)
    out = scratch / "interop.json"
    bad = interop.main(["--timeout", "5", "--out", str(out)])
    row = json.loads(out.read_text("utf-8"))["mine"]
    assert row["status"] == status and shown in (row.get("result") or row["reason"])
    assert bad == (status == "failed")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown: tianshu; accepted: gymnasium-1.0"):
        interop.main(["--only", "tianshu"])


def row_of(name: str) -> Any:
    recipe = FOLDER / interop.RECIPES[name][1]
    done = subprocess.run(
        [sys.executable, str(recipe)], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["gymnasium", "cleanrl-style"])
@pytest.mark.long
def test_recipes_run_in_the_environment_of_the_tests(name: str) -> None:
    row = row_of(name)
    assert row["version"] and row["ran"] and row["result"]
