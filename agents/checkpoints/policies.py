"""What a saved policy consists of; `storage` knows how it is stored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import (
    get_device,
)
from torch import nn

from agents.checkpoints.arguments import decode_all, describe_space, encode, make_space
from agents.checkpoints.errors import CheckpointError, finite, read_json, read_tensors, reading
from agents.checkpoints.exports import write_actor, write_lm
from agents.checkpoints.storage import open_checkpoint, writing_checkpoint
from agents.common.arguments import refuse_unknown
from agents.common.checks import check_device
from text_envs.lm.adapter_files import (
    BASE,
    WEIGHTS,
    add_saved,
    has_adapter_files,
    is_seq2seq,
    read_weights,
)
from text_envs.lm.adapter_files import CONFIG as ADAPTERS
from text_envs.lm.loading import load_lm
from text_envs.lm.sharing import base_of, own_state

__all__ = [
    "load_policy",
    "policy_arguments",
    "read_content",
    "read_policy",
    "save_policy",
    "spaces_of",
    "write_policy",
]

# Where a policy's language models are, by the argument that each is for.
_FOLDERS = {"model": "lm", "value_model": "value_lm"}

POLICY = "policy.json"

# Beyond these, a configuration is of no model that exists.
_MOST_LAYERS, _MOST_WIDTH = 2_000, 10**8


def save_policy(policy: Any, path: str | os.PathLike[str], *, save_base: bool = False) -> None:
    """Save a `CausalLMPolicy` alone, without optimiser; `policy.load` reads it."""
    config = {"policy": type(policy).__name__, "tokenizer": policy.vocabulary}
    with writing_checkpoint(path, config) as tree:
        write_policy(policy, tree, path, save_base)


def load_policy(cls: Any, path: str | os.PathLike[str], device: Any, **overrides: Any) -> Any:
    """Return a policy saved by `save_policy`, or the policy of a saved algorithm."""
    refuse_unknown(cls, overrides)
    check_device(device)
    with open_checkpoint(path) as (tree, config):
        folder, content = read_content(path, tree)
        with reading(f"{path}: {POLICY}"):
            spaces = spaces_of(content)
            arguments = policy_arguments(folder, content, overrides, "%s=...")
            policy = cls(*spaces, ActorCriticPolicy._dummy_schedule, **arguments)
        with reading(f"{path}"):
            read_policy(policy, folder)
        policy.vocabulary = content["vocabulary"]
    return policy.to(get_device(device))


def read_content(path: str | os.PathLike[str], tree: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the policy in a checkpoint, and what its own JSON file says.

    Raises:
        CheckpointError: a file that every policy has is missing, or has other fields.
    """
    folder = tree / "policy" if (tree / "policy").is_dir() else tree
    files = ("config.json", "model.safetensors")
    if has_adapter_files(folder / "lm"):
        files = (ADAPTERS, WEIGHTS)
    for name in (POLICY, *(f"lm/{file}" for file in files), "value.safetensors"):
        if not (folder / name).is_file():
            inside = (folder / name).relative_to(tree).as_posix()
            raise CheckpointError(f"{path}: file {inside} is missing")
    with reading(f"{path}"):
        keys = ("observation_space", "action_space", "arguments", "vocabulary")
        content = read_json(folder / POLICY, *keys)
        words = content["vocabulary"]
        if words is not None and not (isinstance(words, dict) and "sha256" in words):
            raise CheckpointError(f"{POLICY}: vocabulary must be null or facts, got {words!r}")
        for at in _FOLDERS.values():
            for config in (folder / at / "config.json", folder / at / BASE / "config.json"):
                if config.is_file():
                    _check_size(config)
    return folder, content


def spaces_of(content: dict[str, Any]) -> tuple[Any, Any]:
    """Return the two spaces of a saved policy."""
    names = ("observation_space", "action_space")
    return tuple(make_space(content[name], name) for name in names)  # type: ignore[return-value]


def _check_size(file: Path) -> None:
    """Refuse the configuration of a model that no weights could be of: building it takes forever.

    Raises:
        CheckpointError: a number is beyond what any model has.
    """
    for name, value in read_json(file).items():
        most = _MOST_LAYERS if "layer" in name and "norm" not in name else _MOST_WIDTH
        if isinstance(value, int) and value > most:
            raise CheckpointError(f"lm/config.json: {name} is {value}, beyond what models have")


def write_policy(policy: Any, folder: Path, target: Any = None, save_base: bool = False) -> None:
    """Write models, heads and arguments of a policy into a folder.

    Args:
        policy: a `CausalLMPolicy`.
        folder: where to.
        target: the checkpoint that this becomes a part of.
        save_base: write the base of adapters too.
    """
    folder.mkdir(exist_ok=True)
    models = {"model", *policy.further_models}
    arguments = {k: v for k, v in policy.present_arguments().items() if k not in models}
    content = {
        "observation_space": describe_space(policy.observation_space),
        "action_space": describe_space(policy.action_space),
        "arguments": {k: encode(v) for k, v in arguments.items()},
        "vocabulary": policy.vocabulary,
    }
    (folder / POLICY).write_text(json.dumps(content, indent=1), encoding="utf-8")
    write_actor(policy, folder / _FOLDERS["model"], target, save_base)
    for name, lm in policy.further_models.items():
        write_lm(lm, folder / _FOLDERS[name], target, save_base)
    save_file(_tensors(policy.value_net), folder / "value.safetensors")
    heads = _heads(policy)
    if heads:
        save_file(heads, folder / "heads.safetensors")


def _heads(policy: Any) -> dict[str, torch.Tensor]:
    """Return the weights that a subclass adds to language model and value head, without bases."""
    known = ("actor.", "value_net.")
    added = {k: v for k, v in own_state(policy).items() if not k.startswith(known)}
    # Cloned, because a file cannot hold two tensors that share their memory.
    return {k: v.detach().cpu().contiguous().clone() for k, v in added.items()}


def read_policy(policy: Any, folder: Path, exact_match: bool = True) -> None:
    """Put saved weights into an existing policy; all of its heads, if `exact_match`.

    Raises:
        CheckpointError: they are of another one; the message names the file.
    """
    _read_lm(policy, folder / "lm")
    with reading("value.safetensors"):
        values = read_tensors(folder / "value.safetensors")
        finite("weights", values)
        policy.value_net.load_state_dict(values)
    with reading("heads.safetensors"):
        expected, file = set(_heads(policy)), folder / "heads.safetensors"
        heads = read_tensors(file) if file.is_file() else {}
        finite("weights", heads)
        if exact_match and set(heads) != expected:
            raise CheckpointError(
                f"heads are of another policy; missing {sorted(expected - set(heads))[:3]}, "
                f"unexpected {sorted(set(heads) - expected)[:3]}"
            )
        policy.load_state_dict({k: v for k, v in heads.items() if k in expected}, strict=False)


def _read_lm(policy: Any, folder: Path) -> None:
    base = base_of(policy.actor.lm)
    if has_adapter_files(folder):
        with reading(f"lm/{WEIGHTS}"):
            read_weights(policy.actor.lm, folder)
            policy.actor.invalidate()
        return
    with reading("lm/model.safetensors"):
        if base is not None and base.adapter is not None:
            raise CheckpointError("a whole model, and this policy learns adapters of one")
        weights = read_tensors(folder / "model.safetensors")
        finite("weights", weights)
        missing, unexpected = policy.actor.lm.load_state_dict(weights, strict=False)
        tied = set(getattr(policy.actor.lm, "all_tied_weights_keys", None) or ())
        if unexpected or set(missing) - tied:
            raise CheckpointError(
                "weights are of another model; missing "
                f"{sorted(set(missing) - tied)[:3]}, unexpected {list(unexpected)[:3]}"
            )
        policy.actor.lm.tie_weights()


def policy_arguments(
    folder: Path, content: dict[str, Any], overrides: dict[str, Any], remedy: str
) -> dict[str, Any]:
    """Return the arguments of a saved policy, those that are overridden as they are given."""
    arguments = decode_all(content["arguments"], overrides, remedy)
    models: dict[str, Any] = {}
    for name, at in _FOLDERS.items():
        if has_adapter_files(folder / at):
            arguments["lora"] = None  # they come with the model
            if name in overrides:
                with reading(f"{name}={overrides[name]!r}"):
                    overrides = {**overrides, name: _with_saved(overrides[name], folder / at)}
        if (folder / at).is_dir():
            models[name] = str(folder / at)
    return {**models, **arguments, **overrides}


def _with_saved(model: Any, folder: Path) -> Any:
    """Return another base, given as a model or by name, with saved adapters inside."""
    lm, _ = load_lm(model, seq2seq=is_seq2seq(folder))
    return add_saved(lm, folder, None if isinstance(model, nn.Module) else os.fspath(model))


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
