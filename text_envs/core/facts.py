"""What a data set says about where it comes from, and whether an environment is of the same kind.

```
text_envs_version  release that recorded it
env_id, env_spec   Gymnasium's id and specification, None where the environment had none
task               "module:Class"
prompt_length      the first generated column
tokenizer          ids and a digest of the vocabulary
seed, policy       of the recording
```
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import gymnasium as gym
import numpy as np

from text_envs.core.task import Task
from text_envs.core.version import __version__
from text_envs.episodes.errors import DatasetError
from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.types import Role
from text_envs.tokens.vocabulary import tokenizer_facts

__all__ = ["check_compatible", "describe", "env_spec", "task_of"]

# Arguments of `make_vec` that say nothing of the episodes.
_OF_VECTORS = ("num_envs", "vectorization_mode", "autoreset_mode", "vector_kwargs", "render_mode")


def task_of(env: Any) -> Task:
    """Return the task behind an environment of any kind, an id, or the task itself.

    Raises:
        TypeError: there is none.
    """
    if isinstance(env, Task):
        return env
    if isinstance(env, str):
        env = gym.make(env)
    task = attribute(env, "task")
    if not isinstance(task, Task):
        raise TypeError(
            f"{type(env).__name__} is no text environment; accepted: an id, an environment of "
            "text_envs (single, vector, or of Stable-Baselines3), or a Task"
        )
    return task


def attribute(env: Any, name: str) -> Any:
    """Return an attribute of the innermost environment, or None."""
    try:
        if hasattr(env, "get_attr") and not isinstance(env, gym.Env | gym.vector.VectorEnv):
            return env.get_attr(name)[0]  # a VecEnv of Stable-Baselines3
        return getattr(env.unwrapped, name)
    except AttributeError:
        return None


def env_spec(env: Any) -> gym.envs.registration.EnvSpec | None:
    """Return the specification from which `gymnasium.make` makes one row of `env`, or None."""
    if isinstance(env, Task):
        return None
    if isinstance(env, str):
        return gym.spec(env)
    spec = env.spec if isinstance(env, gym.Env | gym.vector.VectorEnv) else attribute(env, "spec")
    if spec is None:
        return None
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in _OF_VECTORS}
    # A batch limits its rows by itself, a single row has a wrapper that the specification names.
    limit = kwargs.pop("max_episode_steps", spec.max_episode_steps)
    return dataclasses.replace(spec, kwargs=kwargs, max_episode_steps=limit)


def describe(env: Any, **recording: Any) -> dict[str, Any]:
    """Return the metadata of episodes of `env`.

    Args:
        env: an id, an environment, or a task.
        **recording: further facts, such as `seed` and `policy`.
    """
    task, spec = task_of(env), env_spec(env)
    return {
        "text_envs_version": __version__,
        "env_id": None if spec is None else spec.id,
        "env_spec": _as_json(spec),
        "task": f"{type(task).__module__}:{type(task).__qualname__}",
        "prompt_length": task.prompt_length,
        "tokenizer": tokenizer_facts(task.tokenizer),
        **recording,
    }


def _as_json(spec: gym.envs.registration.EnvSpec | None) -> dict[str, Any] | None:
    """Return the specification as plain values; None if an argument is an object."""
    if spec is None:
        return None
    try:
        plain: dict[str, Any] = json.loads(spec.to_json())
    except (TypeError, ValueError):
        return None
    return plain


def check_compatible(dataset: EpisodeDataset, env: Any) -> None:
    """Refuse a data set whose tokens or columns mean something else than in `env`.

    Args:
        dataset: recorded episodes.
        env: an id, an environment of any kind, or a task.

    Raises:
        DatasetError: another tokenizer, another shape, or another version of the same id. Data
            without these facts are refused by the first token that `env` does not have.
    """
    task, spec = task_of(env), env_spec(env)
    facts, name = dataset.metadata, dataset.source or "data set"
    theirs, ours = facts.get("tokenizer"), tokenizer_facts(task.tokenizer)
    if theirs is not None and theirs != ours:
        raise DatasetError(
            f"{name}: it was made with the tokenizer {_short(theirs)}, the environment has "
            f"{_short(ours)}; make the environment with the tokenizer of the data, or record the "
            "data again"
        )
    if facts.get("prompt_length", task.prompt_length) != task.prompt_length:
        raise DatasetError(
            f"{name}: its prompts have {facts['prompt_length']} columns, those of the environment "
            f"{task.prompt_length}; pass prompt_length={facts['prompt_length']} to the environment"
        )
    columns = task.prompt_length + task.max_tokens
    if dataset.tokens.shape[1] != columns:
        raise DatasetError(
            f"{name}: its episodes have {dataset.tokens.shape[1]} columns, those of the "
            f"environment {columns} (prompt_length={task.prompt_length} + max_tokens="
            f"{task.max_tokens}); pass max_tokens={dataset.tokens.shape[1] - task.prompt_length} "
            "to the environment"
        )
    _check_version(name, facts.get("env_id"), None if spec is None else spec.id)
    if theirs is None:
        _check_ids(name, dataset, ours)


def _short(facts: Any) -> str:
    return (
        f"{facts.get('kind')} with {facts.get('vocab_size')} ids and {facts.get('num_actions')} "
        f"actions ({str(facts.get('sha256'))[:8]})"
    )


def _check_version(name: str, theirs: str | None, ours: str | None) -> None:
    if theirs is None or ours is None or theirs == ours:
        return
    if theirs.rpartition("-v")[0] == ours.rpartition("-v")[0]:
        raise DatasetError(
            f"{name}: it was recorded in {theirs}, the environment is {ours}; episodes of another "
            "version are not of the same game"
        )


def _check_ids(name: str, dataset: EpisodeDataset, facts: dict[str, Any]) -> None:
    limits = np.where(
        dataset.roles == int(Role.ACTION), facts["num_actions"], facts["vocab_size"]
    )  # (B, L)
    wrong = np.argwhere(dataset.tokens >= limits)
    if len(wrong):
        episode, column = wrong[0].tolist()
        raise DatasetError(
            f"{name}: episode {episode}, column {column}: tokens holds "
            f"{dataset.tokens[episode, column]}, the environment's ids there are "
            f"0..{limits[episode, column] - 1}"
        )
