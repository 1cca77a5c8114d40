"""What a saved algorithm consists of besides its policy, and how it goes on; see `storage`."""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import (
    check_for_correct_spaces,
)

from agents.checkpoints.arguments import decode_all, encode, make_space
from agents.checkpoints.policies import (
    policy_arguments,
    read_json,
    read_policy,
    write_lm,
    write_policy,
)
from agents.checkpoints.storage import (
    CheckpointError,
    load_optimizer,
    load_tree,
    open_checkpoint,
    optimizer_tree,
    save_tree,
    writing_checkpoint,
)
from agents.common.arguments import parameters_of
from agents.common.envs import tokenizer_of
from text_envs.episodes.errors import DatasetError
from text_envs.tokens.vocabulary import check_vocabulary

__all__ = [
    "SPECIAL",
    "load_algorithm",
    "resume",
    "save_algorithm",
    "set_parameters",
]

logger = logging.getLogger(__name__)

# Arguments of an algorithm that are not values, or that have a place of their own.
SPECIAL = {"policy", "env", "device", "reference", "num_envs", "policy_kwargs", "dataset"}
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


def save_algorithm(algorithm: Any, path: str | os.PathLike[str]) -> None:
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
        "reference": getattr(algorithm, "reference_name", None),  # an offline algorithm has none
        "tokenizer": algorithm.policy.vocabulary,
    }
    reference = getattr(algorithm, "reference", None)
    with writing_checkpoint(path, config) as tree:
        write_policy(algorithm.policy, tree / "policy")
        if reference is not None and config["reference"] is None:
            write_lm(reference.lm, tree / "reference")
        save_tree(optimizer_tree(algorithm.policy.optimizer), tree, "optimizer")
        save_tree(_state(algorithm), tree, "state")


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
    with open_checkpoint(path) as (tree, config):
        if config.get("algorithm") != cls.__name__:
            raise CheckpointError(
                f"{path} was saved by {config.get('algorithm', 'a policy alone')}, "
                f"not by {cls.__name__}"
            )
        content = read_json(tree / "policy" / "policy.json")
        policy = overrides.pop("policy", config["policy"])
        changed = overrides.pop("policy_kwargs", {})
        for name in changed.keys() & parameters_of(cls).keys():
            raise ValueError(
                f"policy_kwargs[{name!r}] would be overridden: {cls.__name__} decides it; "
                f"accepted: {name}={changed[name]!r} as an argument of load"
            )
        reference = overrides.pop("reference", config["reference"])
        if reference is None and (tree / "reference").is_dir():
            reference = tree / "reference"
        if "reference" in parameters_of(cls):
            overrides["reference"] = reference
        algorithm = cls(
            policy,
            env,
            policy_kwargs=policy_arguments(
                tree / "policy", content, changed, "policy_kwargs={%r: ...}"
            ),
            device=device,
            _init_setup_model=False,
            **decode_all(config["arguments"], overrides),
            **overrides,
        )
        space, actions = (
            make_space(content["observation_space"]),
            make_space(content["action_space"]),
        )
        if algorithm.env is None:
            algorithm.observation_space, algorithm.action_space = space, actions
            algorithm.n_envs = config["n_envs"]
        else:
            check_for_correct_spaces(algorithm.env, space, actions)
        seed, algorithm.seed = algorithm.seed, None  # not to start the generators anew
        algorithm._setup_model()
        algorithm.seed = seed
        read_policy(algorithm.policy, tree / "policy")
        algorithm.policy.vocabulary = content["vocabulary"] or algorithm.policy.vocabulary
        _refuse_other_words(algorithm, path)
        load_optimizer(algorithm.policy.optimizer, load_tree(tree, "optimizer"))
        state = load_tree(tree, "state")
        for name in _COUNTERS:
            setattr(algorithm, name, state[name])
        if "own" in state:
            algorithm.set_own_state(state["own"])
        algorithm.ep_info_buffer = deque(state["ep_info"], maxlen=algorithm._stats_window_size)
        algorithm.ep_success_buffer = deque(maxlen=algorithm._stats_window_size)
        if overrides.get("seed") is not None:  # asked to go on with other random numbers
            state.pop("rng", None)
        algorithm.pending = state
    return algorithm


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
        folder = tree / "policy" if (tree / "policy").is_dir() else tree
        read_policy(algorithm.policy, folder, exact_match)
        if exact_match and (tree / "optimizer.json").is_file():
            load_optimizer(algorithm.policy.optimizer, load_tree(tree, "optimizer"))


def _state(algorithm: Any) -> dict[str, Any]:
    state = {name: getattr(algorithm, name) for name in _COUNTERS}
    state["ep_info"] = list(algorithm.ep_info_buffer or ())
    if hasattr(algorithm, "own_state"):  # what no other algorithm has
        state["own"] = algorithm.own_state()
    if algorithm.pending is not None:  # loaded and not gone on with: still where it was
        return {**algorithm.pending, **state}
    if hasattr(algorithm, "data_state"):  # it learns from a data set
        state["data"] = algorithm.data_state()
    else:
        state["obs"], state["starts"] = algorithm._last_obs, algorithm._last_episode_starts
        state["env"] = _env_state(algorithm.env)
    python = random.getstate()
    state["rng"] = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": list(np.random.get_state()),
        "python": [python[0], list(python[1]), python[2]],
    }
    return state


def resume(algorithm: Any) -> None:
    """Put back environment or data and generators of a loaded algorithm, before it goes on."""
    state, algorithm.pending = algorithm.pending, None
    if state is None:
        return
    if "rng" not in state:
        algorithm.set_random_seed(algorithm.seed)
        return
    if "data" in state:
        algorithm.set_data_state(state["data"])
    elif state["env"] is not None and _set_env_state(algorithm.env, state["env"]):
        algorithm._last_obs, algorithm._last_episode_starts = state["obs"], state["starts"]
    rng = state["rng"]
    torch.set_rng_state(rng["torch"])
    if rng["cuda"] and torch.cuda.device_count() == len(rng["cuda"]):
        torch.cuda.set_rng_state_all(rng["cuda"])
    np.random.set_state(tuple(rng["numpy"]))
    version, words, gauss = rng["python"]
    random.setstate((version, tuple(words), gauss))


def _env_state(env: Any) -> Any:
    """Return the state of the environments, or None where they do not offer one."""
    native: Any = getattr(env, "env", None)
    if hasattr(native, "get_state"):
        return {"native": native.get_state()}
    try:
        return {"rows": env.env_method("get_state")}
    except AttributeError:
        return None


def _set_env_state(env: Any, state: dict[str, Any]) -> bool:
    """Restore the environments; False, with a message, if these are not like the saved ones."""
    try:
        if "native" in state:
            env.env.set_state(state["native"])
        elif len(state["rows"]) != env.num_envs:
            raise ValueError(f"{len(state['rows'])} rows were saved, here are {env.num_envs}")
        else:
            env.reset()  # wrappers around the rows want one before any step
            for row, saved in enumerate(state["rows"]):
                env.env_method("set_state", saved, indices=row)
    except (AttributeError, ValueError) as error:
        logger.warning(
            "the environment is reset instead of restored, so that training goes on, but not "
            "exactly as the saved run would have: %s",
            error,
        )
        return False
    while env is not None:  # a seed that waits for the next reset would undo what was restored
        env._reset_seeds()
        env = getattr(env, "venv", None)
    return True
