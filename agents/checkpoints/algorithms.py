"""What a saved algorithm consists of besides its policy, and how it goes on; see `storage`."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import check_for_correct_spaces

from agents.checkpoints.arguments import decode_all, encode
from agents.checkpoints.errors import CheckpointError, reading, whole
from agents.checkpoints.exports import write_lm
from agents.checkpoints.policies import (
    policy_arguments,
    read_content,
    read_policy,
    spaces_of,
    write_policy,
)
from agents.checkpoints.state import COUNTERS, check_state, resume, state_of
from agents.checkpoints.storage import (
    load_optimizer,
    load_tree,
    open_checkpoint,
    optimizer_tree,
    save_tree,
    writing_checkpoint,
)
from agents.common.arguments import parameters_of, refuse_unknown
from agents.common.envs import tokenizer_of
from text_envs.episodes.errors import DatasetError
from text_envs.lm.loading import BUNDLED
from text_envs.lm.sharing import SharedReference, base_of, own_state, shares_base
from text_envs.tokens.vocabulary import check_vocabulary

__all__ = [
    "SPECIAL",
    "load_algorithm",
    "resume",
    "save_algorithm",
    "set_parameters",
]

# Arguments of an algorithm that are not values, or that have a place of their own.
SPECIAL = {"policy", "env", "device", "reference", "num_envs", "policy_kwargs", "dataset"}


def save_algorithm(
    algorithm: Any, path: str | os.PathLike[str], *, save_base: bool = False
) -> None:
    """Save everything that decides how training goes on, to a folder or a `.zip`."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder or a .zip file, got {type(path).__name__}")
    names = parameters_of(type(algorithm)).keys() - SPECIAL
    arguments = {
        name: encode(_argument(algorithm, name))
        for name in sorted(names)
        if not name.startswith("_")
    }
    config = {
        "algorithm": type(algorithm).__name__,
        "policy": type(algorithm.policy).__name__,
        "arguments": arguments,
        "n_envs": algorithm.n_envs,
        "reference": _reference_facts(algorithm),
        "tokenizer": algorithm.policy.vocabulary,
    }
    reference = getattr(algorithm, "reference", None)
    with writing_checkpoint(path, config) as tree:
        write_policy(algorithm.policy, tree / "policy", path, save_base)
        if reference is not None and isinstance(config["reference"], dict):
            save_tree(own_state(reference), tree, "reference")
        elif reference is not None and config["reference"] is None:
            write_lm(reference.lm, tree / "reference", path, save_base)
        save_tree(optimizer_tree(algorithm.policy.optimizer), tree, "optimizer")
        save_tree(state_of(algorithm), tree, "state")


def _reference_facts(algorithm: Any) -> Any:
    """Return what tells where the reference is: a bundled name, the policy's base, or None."""
    reference = getattr(algorithm, "reference", None)  # an offline algorithm has none
    if reference is not None and shares_base(reference, algorithm.policy.actor):
        base = base_of(reference.lm)
        return {"shared": True, "adapters": base is not None and base.adapter is not None}
    return getattr(algorithm, "reference_name", None)


def _argument(algorithm: Any, name: str) -> Any:
    """Return what an argument is now, which is what it was made with if it is no attribute."""
    for attribute in (name, f"_{name}"):
        if hasattr(algorithm, attribute):
            return getattr(algorithm, attribute)
    default = parameters_of(type(algorithm))[name].default
    return algorithm.given.get(name, default)


def load_algorithm(
    cls: Any, path: str | os.PathLike[str], env: Any, device: Any, **overrides: Any
) -> Any:
    """Return a saved algorithm; `learn(..., reset_num_timesteps=False)` goes on where it stopped.

    Args:
        cls: the class that was saved.
        path: folder or `.zip`.
        env: an environment like the one saved with; None if only predictions are wanted.
        device: where to put it.
        **overrides: arguments to use instead of the saved ones.
    """
    refuse_unknown(cls, overrides)
    with open_checkpoint(path) as (tree, config):
        if config.get("algorithm") != cls.__name__:
            raise CheckpointError(
                f"{path} was saved by {config.get('algorithm', 'a policy alone')}, "
                f"not by {cls.__name__}"
            )
        folder, content = read_content(path, tree)
        algorithm = _made(cls, path, env, device, (tree, config, content), overrides)
        with reading(f"{path}"):
            read_policy(algorithm.policy, folder)
        algorithm.policy.vocabulary = content["vocabulary"] or algorithm.policy.vocabulary
        _refuse_other_words(algorithm, path)
        with reading(f"{path}"):
            load_optimizer(algorithm.policy.optimizer, load_tree(tree, "optimizer"))
            state = load_tree(tree, "state")
            with reading("state.json"):
                check_state(state, algorithm)
                for name in COUNTERS:
                    setattr(algorithm, name, state[name])
                if "own" in state:
                    algorithm.set_own_state(state["own"])
        size = algorithm._stats_window_size
        algorithm.ep_info_buffer = deque(state["ep_info"], maxlen=size)
        algorithm.ep_success_buffer = deque(maxlen=size)
        if overrides.get("seed") is not None:  # asked to go on with other random numbers
            state.pop("rng", None)
        algorithm.pending = state
        _use_overrides(algorithm, overrides)
    algorithm.finish()
    return algorithm


def _use_overrides(algorithm: Any, overrides: dict[str, Any]) -> None:
    """Give the optimiser what was asked for anew, and its saved state has as it was."""
    asked = dict((overrides.get("policy_kwargs") or {}).get("optimizer_kwargs") or {})
    if "weight_decay" in overrides:
        asked["weight_decay"] = overrides["weight_decay"]
    for group in algorithm.policy.optimizer.param_groups:
        group.update({name: value for name, value in asked.items() if name in group})


def _made(
    cls: Any,
    path: Any,
    env: Any,
    device: Any,
    files: tuple[Path, dict[str, Any], dict[str, Any]],
    overrides: dict[str, Any],
) -> Any:
    """Return the algorithm that a checkpoint is of, its weights still those of a new one."""
    tree, config, content = files
    given = dict(overrides)
    policy = given.pop("policy", config.get("policy"))
    changed = given.pop("policy_kwargs", None) or {}
    if "policy" not in overrides and policy not in tuple(cls.policy_aliases):
        raise CheckpointError(
            f"{path}: config.json: policy is {policy!r}, which is not among those that "
            f"{cls.__name__} knows by name; pass policy=its class to load"
        )
    for name in changed.keys() & parameters_of(cls).keys():
        raise ValueError(
            f"policy_kwargs[{name!r}] would be overridden: {cls.__name__} decides it; "
            f"accepted: {name}={changed[name]!r} as an argument of load"
        )
    if "reference" in parameters_of(cls) and "reference" not in given:
        given["reference"] = _saved_reference(path, tree, config.get("reference"))
    with reading(f"{path}: policy.json"):
        space, actions = spaces_of(content)
        kwargs = policy_arguments(tree / "policy", content, changed, "policy_kwargs={%r: ...}")
    with reading(f"{path}: config.json"):
        rows = whole("n_envs", config.get("n_envs"), 1, 2**24)
        algorithm = cls(
            policy,
            env,
            policy_kwargs=kwargs,
            device=device,
            _init_setup_model=False,
            **decode_all(config.get("arguments"), overrides),
            **given,
        )
    if algorithm.env is None:
        algorithm.observation_space, algorithm.action_space = space, actions
        algorithm.n_envs = rows
    else:
        check_for_correct_spaces(algorithm.env, space, actions)
    seed, algorithm.seed = algorithm.seed, None  # not to start the generators anew
    algorithm.is_loading = True
    with reading(f"{path}: config.json and policy.json"):
        algorithm._setup_model()
    del algorithm.is_loading
    algorithm.seed = seed
    return algorithm


def _saved_reference(path: Any, tree: Path, name: Any) -> Any:
    """Return what the reference is loaded from: its own folder, or the name of a bundled model.

    Or, of one that shares the policy's base, what it has of its own.
    """
    if isinstance(name, dict):
        with reading(f"{path}: reference.json"):
            return SharedReference(name.get("adapters") is True, load_tree(tree, "reference"))
    if name is not None and name not in BUNDLED:
        raise CheckpointError(
            f"{path}: config.json: reference must be null or one of {BUNDLED}, got {name!r}"
        )
    return tree / "reference" if name is None and (tree / "reference").is_dir() else name


def _refuse_other_words(algorithm: Any, path: str | os.PathLike[str]) -> None:
    """Raise an error if a loaded algorithm got data or an environment of other tokens."""
    learnt, dataset = algorithm.policy.vocabulary, getattr(algorithm, "dataset", None)
    theirs = None if dataset is None else dataset.metadata.get("tokenizer")
    if dataset is not None and None not in (learnt, theirs) and learnt != theirs:
        raise DatasetError(
            f"{dataset.source or 'data set'}: it was made with another tokenizer than "
            f"{type(algorithm).__name__} in {path} learnt with: {theirs}, not {learnt}"
        )
    if algorithm.env is not None:
        name = f"{type(algorithm).__name__} in {path}"
        check_vocabulary(name, learnt, tokenizer_of(algorithm.env), padding=True)


def set_parameters(algorithm: Any, path: str | os.PathLike[str], exact_match: bool) -> None:
    """Put the saved weights, and the optimiser's state if `exact_match`, into an algorithm."""
    with open_checkpoint(path) as (tree, config):
        if algorithm.env is not None:
            words = config.get("tokenizer")
            check_vocabulary(f"the agent in {path}", words, tokenizer_of(algorithm.env))
        folder, _ = read_content(path, tree)
        with reading(f"{path}"):
            read_policy(algorithm.policy, folder, exact_match)
            if exact_match and (tree / "optimizer.json").is_file():
                load_optimizer(algorithm.policy.optimizer, load_tree(tree, "optimizer"))
