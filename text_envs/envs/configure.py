"""From the plain arguments of `gymnasium.make` to a task and a reward model."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from text_envs.core.reward import bind
from text_envs.core.task import Task
from text_envs.episodes.errors import unexpected
from text_envs.rewards import RewardModel, resolve

__all__ = ["build"]


def build(
    task: Any, reward: Any, reward_kwargs: Mapping[str, Any] | None, task_kwargs: Mapping[str, Any]
) -> tuple[Task, RewardModel | None]:
    """Return the task and the reward model that the arguments of an environment stand for.

    Args:
        task: a `Task`, a subclass of it, or `"module:Class"` as the registry stores it.
        reward: anything `text_envs.rewards.resolve` accepts, or None for the task's default.
        reward_kwargs: arguments of a reward model given by name.
        task_kwargs: arguments of the task.

    Raises:
        TypeError: an argument that the task does not take, with the nearest one that it does.
    """
    if isinstance(task, Task):
        if task_kwargs:
            raise TypeError(
                f"arguments {sorted(task_kwargs)} go with a task given by name; this one "
                f"({type(task).__name__}) is built already"
            )
        built = task
    else:
        factory = _load(task)
        _check_arguments(factory, task_kwargs)
        built = factory(**task_kwargs)
        if not isinstance(built, Task):
            raise TypeError(f"task {task!r} made a {type(built).__name__}, not a text_envs.Task")
    chosen = built.reward if reward is None else reward
    if chosen is None:
        if not built.multi_turn:
            raise ValueError(f"{type(built).__name__} has no default reward; pass reward=...")
        return built, None
    model = resolve(chosen, **dict(reward_kwargs or {}))
    bind(model, built)
    return built, model


def _load(task: Any) -> Callable[..., Any]:
    if isinstance(task, str):
        module_name, colon, attribute = task.partition(":")
        if not colon:
            raise ValueError(
                f"{task!r} is no text environment: task must be 'module:Class'; where ids are "
                "taken too, one such as 'text_envs/Reviews-v0'"
            )
        module = importlib.import_module(module_name)
        if not hasattr(module, attribute):
            raise ValueError(f"module {module_name!r} has no task {attribute!r}")
        task = getattr(module, attribute)
    if not callable(task):
        raise TypeError(f"task must be a Task, a Task class or 'module:Class', got {task!r}")
    factory: Callable[..., Any] = task
    return factory


# Arguments of every environment, named in the hint for a misspelt one.
_COMMON = (
    "reward",
    "reward_kwargs",
    "action_mask",
    "render_mode",
    "max_episode_steps",
    "autoreset_mode",
    "shaping",
    "starts",
)


def _check_arguments(factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in given:
        if name not in parameters:
            label = getattr(factory, "__name__", repr(factory))
            raise unexpected(label, name, (*parameters, *_COMMON))
