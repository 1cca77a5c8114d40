"""What importing costs and what it exposes."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


def test_importing_the_environments_loads_no_deep_learning_library() -> None:
    code = (
        "import sys, text_envs, gymnasium; "
        "env = gymnasium.make('text_envs/Reviews-v0'); env.reset(seed=0); env.step(0); "
        "heavy = {'torch', 'transformers', 'stable_baselines3', 'matplotlib', 'datasets'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name", ["text_envs", "text_envs.rewards", "text_envs.tasks", "text_envs.lm", "agents"]
)
def test_public_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None
