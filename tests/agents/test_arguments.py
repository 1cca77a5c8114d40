"""Arguments of the algorithms: shown, documented once, refused where unknown."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.base_class import BaseAlgorithm

import agents
from agents.common.arguments import parameters_of
from agents.training import EpisodicAlgorithm, OfflineAlgorithm, arguments
from agents.training.values import ValueAlgorithm

ALGORITHMS = sorted(
    (
        found
        for found in vars(agents).values()
        if isinstance(found, type) and issubclass(found, BaseAlgorithm)
    ),
    key=lambda cls: cls.__name__,
)
BASES: dict[Any, Any] = {
    arguments.RunArguments: EpisodicAlgorithm,
    arguments.ReferenceArguments: EpisodicAlgorithm,
    arguments.KLArguments: EpisodicAlgorithm,
    arguments.RecordedArguments: OfflineAlgorithm,
    arguments.ValueArguments: ValueAlgorithm,
}


def test_all_algorithms_are_looked_at() -> None:
    assert len(ALGORITHMS) >= 15


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_every_argument_is_shown_and_documented(cls: Any) -> None:
    parameters = inspect.signature(cls).parameters
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert {"seed", "device", "policy_kwargs", "verbose", "max_grad_norm"} <= set(parameters)
    doc = inspect.getdoc(cls) or ""
    for name in parameters:
        assert name.startswith("_") or doc.count(f"\n    {name}: ") == 1, f"{name} of {cls}"


@pytest.mark.parametrize("cls", ALGORITHMS)
@pytest.mark.parametrize(("wrong", "right"), [("learning_rat", "learning_rate"), ("sed", "seed")])
def test_unknown_arguments_are_refused_with_the_nearest(cls: Any, wrong: str, right: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'.*mean '{right}'"):
        cls("CausalLMPolicy", "text_envs/Toy-v0", **{wrong: 1})


def test_every_typed_home_has_a_base() -> None:
    assert {cls.__name__ for cls in BASES} == {
        name for name in arguments.__all__ if name.endswith("Arguments")
    }


@pytest.mark.parametrize("typed", BASES)
def test_the_typed_home_agrees_with_the_base_that_has_the_defaults(typed: Any) -> None:
    """Names and types are those of the base; a key that a base lacks would never arrive."""
    base = BASES[typed]
    for name, kind in typed.__annotations__.items():
        parameter = parameters_of(base)[name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert getattr(kind, "__forward_arg__", kind) == parameter.annotation, name


def test_each_argument_is_documented_in_one_place() -> None:
    """In the source: no algorithm repeats the entry of an argument that is shared."""
    everywhere = (arguments.KLArguments, arguments.RecordedArguments)
    shared = {name for typed in everywhere for name in typed.__annotations__}
    allowed = {"policy_kwargs"}  # where the policy is another one
    for path in sorted(Path(agents.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                doc = ast.get_docstring(node) or ""
                repeated = {n for n in shared - allowed if f"\n    {n}: " in doc}
                assert not repeated, f"{path.name}: {node.name} documents {repeated} again"


def test_positional_arguments_are_noted_too(tmp_path: Path) -> None:
    agent = agents.PPO("CausalLMPolicy", "text_envs/Toy-v0", 1e-3, 16, 4)
    assert agent.given == {"learning_rate": 1e-3, "n_episodes": 16, "batch_size": 4}
