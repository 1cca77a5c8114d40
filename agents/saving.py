"""What a saved policy and a saved algorithm consist of; `checkpoints` knows how it is stored."""

from __future__ import annotations

import inspect
import json
import logging
import os
import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import (
    check_for_correct_spaces,
    get_device,
)
from torch import nn

from agents.arguments import decode_all, describe_space, encode, make_space
from agents.checkpoints import (
    CheckpointError,
    load_optimizer,
    load_tree,
    open_checkpoint,
    optimizer_tree,
    save_tree,
    writing_checkpoint,
)
from agents.envs import tokenizer_of
from text_envs.errors import DatasetError
from text_envs.lm.loading import quietly
from text_envs.vocabulary import check_vocabulary

__all__ = [
    "load_algorithm",
    "load_policy",
    "resume",
    "save_algorithm",
    "save_policy",
    "set_parameters",
]

logger = logging.getLogger(__name__)

# Where a policy's language models are, by the argument that each is for.
_FOLDERS = {"model": "lm", "value_model": "value_lm"}
# Arguments of an algorithm that are not values, or that have a place of their own.
_SPECIAL = {"self", "policy", "env", "device", "reference", "num_envs", "policy_kwargs", "dataset"}
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


# -- policies ----------------------------------------------------------------------------------


def save_policy(policy: Any, path: str | os.PathLike[str]) -> None:
    """Save a `CausalLMPolicy` alone, without optimiser; `policy.load` reads it."""
    config = {"policy": type(policy).__name__, "tokenizer": policy.vocabulary}
    with writing_checkpoint(path, config) as tree:
        _write_policy(policy, tree)


def load_policy(cls: Any, path: str | os.PathLike[str], device: Any, **overrides: Any) -> Any:
    """Return a policy saved by `save_policy`, or the policy of a saved algorithm."""
    with open_checkpoint(path) as (tree, _):
        folder = tree / "policy" if (tree / "policy").is_dir() else tree
        content = _read_json(folder / "policy.json")
        policy = cls(
            make_space(content["observation_space"]),
            make_space(content["action_space"]),
            ActorCriticPolicy._dummy_schedule,
            **_policy_kwargs(folder, content, overrides, "%s=..."),
        )
        _read_policy(policy, folder)
        policy.vocabulary = content["vocabulary"]
    return policy.to(get_device(device))


def _write_policy(policy: Any, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    models = {"model": policy.actor.lm, **policy.further_models}
    arguments = {k: v for k, v in policy.arguments.items() if k not in models}
    if "temperature" in arguments:  # which may have been changed since
        arguments["temperature"] = policy.actor.temperature
    content = {
        "observation_space": describe_space(policy.observation_space),
        "action_space": describe_space(policy.action_space),
        "arguments": {k: encode(v) for k, v in arguments.items()},
        "vocabulary": policy.vocabulary,
    }
    (folder / "policy.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    for name, lm in models.items():
        _write_lm(lm, folder / _FOLDERS[name])
    if policy.tokenizer is not None:
        hf = getattr(policy.tokenizer, "hf", None)
        if hf is not None:
            hf.save_pretrained(folder / "lm")
        else:
            policy.tokenizer.save(folder / "lm" / "tokenizer.json")
    save_file(_tensors(policy.value_net), folder / "value.safetensors")
    heads = _heads(policy)
    if heads:
        save_file(heads, folder / "heads.safetensors")


def _heads(policy: Any) -> dict[str, torch.Tensor]:
    """Return the weights that a subclass adds to language model and value head."""
    known = ("actor.", "value_net.")
    # Cloned, because a file cannot hold two tensors that share their memory.
    return {k: v.clone() for k, v in _tensors(policy).items() if not k.startswith(known)}


def _write_lm(lm: Any, folder: Path) -> None:
    with quietly():
        # Under the names that the weights have in memory, which some families change on disk.
        lm.save_pretrained(folder, max_shard_size="1000GB", save_original_format=False)


def _read_policy(policy: Any, folder: Path, exact_match: bool = True) -> None:
    """Put saved weights into an existing policy; all of its heads, if `exact_match`."""
    weights = load_file(folder / "lm" / "model.safetensors")
    missing, unexpected = policy.actor.lm.load_state_dict(weights, strict=False)
    tied = set(getattr(policy.actor.lm, "all_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied:
        raise CheckpointError(
            f"{folder}: weights are of another model; missing {sorted(set(missing) - tied)[:3]}, "
            f"unexpected {list(unexpected)[:3]}"
        )
    policy.actor.lm.tie_weights()
    policy.value_net.load_state_dict(load_file(folder / "value.safetensors"))
    expected, file = set(_heads(policy)), folder / "heads.safetensors"
    heads = load_file(file) if file.is_file() else {}
    if exact_match and set(heads) != expected:
        raise CheckpointError(
            f"{folder}: heads are of another policy; missing {sorted(expected - set(heads))[:3]}, "
            f"unexpected {sorted(set(heads) - expected)[:3]}"
        )
    policy.load_state_dict({k: v for k, v in heads.items() if k in expected}, strict=False)


def _policy_kwargs(
    folder: Path, content: dict[str, Any], overrides: dict[str, Any], remedy: str
) -> dict[str, Any]:
    arguments = decode_all(content["arguments"], overrides, remedy)
    models = {name: str(folder / at) for name, at in _FOLDERS.items() if (folder / at).is_dir()}
    return {**models, **arguments, **overrides}


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}


# -- algorithms --------------------------------------------------------------------------------


def save_algorithm(algorithm: Any, path: str | os.PathLike[str]) -> None:
    """Save everything that decides how training goes on, to a folder or a `.zip`."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder or a .zip file, got {type(path).__name__}")
    names = _argument_names(type(algorithm)) - _SPECIAL
    arguments = {
        name: encode(getattr(algorithm, name, getattr(algorithm, f"_{name}", None)))
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
        _write_policy(algorithm.policy, tree / "policy")
        if reference is not None and config["reference"] is None:
            _write_lm(reference.lm, tree / "reference")
        save_tree(optimizer_tree(algorithm.policy.optimizer), tree, "optimizer")
        save_tree(_state(algorithm), tree, "state")


def _argument_names(cls: type) -> set[str]:
    """Return the names of a class's arguments, those that `**kwargs` hands on included."""
    names: set[str] = set()
    for owner in cls.__mro__:
        if "__init__" in vars(owner):
            parameters = inspect.signature(vars(owner)["__init__"]).parameters
            names |= {n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                break
    return names


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
        content = _read_json(tree / "policy" / "policy.json")
        policy = overrides.pop("policy", config["policy"])
        changed = overrides.pop("policy_kwargs", {})
        for name in changed.keys() & _argument_names(cls):
            raise ValueError(
                f"policy_kwargs[{name!r}] would be overridden: {cls.__name__} decides it; "
                f"accepted: {name}={changed[name]!r} as an argument of load"
            )
        reference = overrides.pop("reference", config["reference"])
        if reference is None and (tree / "reference").is_dir():
            reference = tree / "reference"
        if "reference" in _argument_names(cls):
            overrides["reference"] = reference
        algorithm = cls(
            policy,
            env,
            policy_kwargs=_policy_kwargs(
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
        _read_policy(algorithm.policy, tree / "policy")
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
        _read_policy(algorithm.policy, folder, exact_match)
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


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
