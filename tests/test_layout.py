"""The folders of both packages: which may import which, and that each says what lives in it."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import text_envs

ROOT = Path(text_envs.__file__).parent.parent

# From the ground up: a folder imports only folders that stand before it, wherever the import is
# written (in a function, under TYPE_CHECKING). What is loose at the root of a package stands last.
ORDER = (
    "text_envs.tokens",
    "text_envs.episodes",
    "text_envs.core",
    "text_envs.render",
    "text_envs.lm",
    "text_envs.rewards",
    "text_envs.tasks",
    "text_envs.policies",
    "text_envs.guides",
    "text_envs.envs",
    "text_envs.datasets",
    "text_envs.exact",
    "text_envs.testing",
    "text_envs.cli",
    "text_envs.assets",
    "text_envs",
    "agents.common",
    "agents.losses",
    "agents.checkpoints",
    "agents.policies",
    "agents.rollouts",
    "agents.data",
    "agents.training",
    "agents",
)
MOST_LINES = 350
FOLDERS = [folder for folder in ORDER if "." in folder]


def modules() -> dict[str, Path]:
    found = {}
    for package in ("text_envs", "agents"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def folder_of(module: str) -> str:
    """Return the folder of `ORDER` in which a module is; a package's root for what is loose."""
    parts = module.split(".")
    inside = ".".join(parts[:2])
    return inside if inside in FOLDERS else parts[0]


def imported(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the module of every import of our own code, late ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively"
            names = [str(node.module)]
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner] or names
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("text_envs", "agents"):
                yield node.lineno, name


def test_imports_run_one_way() -> None:
    wrong = []
    for module, path in MODULES.items():
        place = ORDER.index(folder_of(module))
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8")), module):
            if ORDER.index(folder_of(name)) > place:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_file_imports_itself_through_others() -> None:
    """Within a folder too; a folder's face only hands names on."""
    after = {
        module: {
            name
            for _, name in imported(ast.parse(path.read_text(encoding="utf-8")), module)
            if MODULES.get(name, path).name != "__init__.py"
        }
        for module, path in MODULES.items()
        if path.name != "__init__.py"
    }
    while leaves := {module for module, names in after.items() if not names & after.keys()}:
        after = {module: names for module, names in after.items() if module not in leaves}
    assert not after, sorted(after)


def test_an_import_against_the_order_is_found() -> None:
    code = "def late():\n    from text_envs.envs.single import TokenEnv\n"
    found = list(imported(ast.parse(code), "text_envs.core.engine"))
    assert found == [(2, "text_envs.envs.single")]
    assert ORDER.index(folder_of(found[0][1])) > ORDER.index("text_envs.core")


def test_every_folder_has_its_place_in_the_order() -> None:
    for package in ("text_envs", "agents"):
        folders = {p.parent.name for p in (ROOT / package).glob("*/*.py")}
        assert {f"{package}.{name}" for name in folders} == {
            folder for folder in FOLDERS if folder.startswith(f"{package}.")
        }


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_what_lives_there_and_what_it_may_import(folder: str) -> None:
    text = importlib.import_module(folder).__doc__ or ""
    assert "import" in text.lower(), f"{folder} does not say what it may import"
    assert len(text.split()) >= 15


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES.values()
    }
    long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES}
    assert not long, long


def test_the_roots_hold_doors_only() -> None:
    loose = {path.name for path in (ROOT / "text_envs").iterdir() if path.is_file()}
    assert loose == {
        "__init__.py",
        "__main__.py",
        "py.typed",
        # What README imports by name; each hands on what lives in a folder.
        "reference.py",
        "roll_in.py",
        "shaping.py",
        "tokenizers.py",
    }
    algorithms = {path.stem for path in (ROOT / "agents").glob("*.py")} - {"__init__"}
    assert algorithms == {
        "bc",
        "cql",
        "decision_transformer",
        "dpg",
        "farl",
        "hir",
        "ilql",
        "mc",
        "policy_gradient",
        "ppo",
        "rlgf",
    }
