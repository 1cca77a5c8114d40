"""What a saved policy consists of; `storage` knows how it is stored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import (
    get_device,
)
from torch import nn

from agents.checkpoints.arguments import decode_all, describe_space, encode, make_space
from agents.checkpoints.storage import (
    CheckpointError,
    open_checkpoint,
    writing_checkpoint,
)
from text_envs.lm.loading import quietly

__all__ = [
    "load_policy",
    "policy_arguments",
    "read_json",
    "read_policy",
    "save_policy",
    "write_lm",
    "write_policy",
]

# Where a policy's language models are, by the argument that each is for.
_FOLDERS = {"model": "lm", "value_model": "value_lm"}


def save_policy(policy: Any, path: str | os.PathLike[str]) -> None:
    """Save a `CausalLMPolicy` alone, without optimiser; `policy.load` reads it."""
    config = {"policy": type(policy).__name__, "tokenizer": policy.vocabulary}
    with writing_checkpoint(path, config) as tree:
        write_policy(policy, tree)


def load_policy(cls: Any, path: str | os.PathLike[str], device: Any, **overrides: Any) -> Any:
    """Return a policy saved by `save_policy`, or the policy of a saved algorithm."""
    with open_checkpoint(path) as (tree, _):
        folder = tree / "policy" if (tree / "policy").is_dir() else tree
        content = read_json(folder / "policy.json")
        policy = cls(
            make_space(content["observation_space"]),
            make_space(content["action_space"]),
            ActorCriticPolicy._dummy_schedule,
            **policy_arguments(folder, content, overrides, "%s=..."),
        )
        read_policy(policy, folder)
        policy.vocabulary = content["vocabulary"]
    return policy.to(get_device(device))


def write_policy(policy: Any, folder: Path) -> None:
    """Write models, heads and arguments of a policy into a folder."""
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
        write_lm(lm, folder / _FOLDERS[name])
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


def write_lm(lm: Any, folder: Path) -> None:
    """Write a language model as transformers does."""
    with quietly():
        # Under the names that the weights have in memory, which some families change on disk.
        lm.save_pretrained(folder, max_shard_size="1000GB", save_original_format=False)


def read_policy(policy: Any, folder: Path, exact_match: bool = True) -> None:
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


def policy_arguments(
    folder: Path, content: dict[str, Any], overrides: dict[str, Any], remedy: str
) -> dict[str, Any]:
    """Return the arguments of a saved policy, those that are overridden as they are given."""
    arguments = decode_all(content["arguments"], overrides, remedy)
    models = {name: str(folder / at) for name, at in _FOLDERS.items() if (folder / at).is_dir()}
    return {**models, **arguments, **overrides}


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
