"""What tells one target of `agents.dpg` from another: what was fitted to one is not the other's."""

from __future__ import annotations

import json
import zlib
from typing import Any

from torch import nn

from agents.common.envs import attribute
from text_envs.core.reward import label
from text_envs.core.task import Task

__all__ = ["target_facts", "weights_digest"]

# Prompts that a target is told by; all of a large data set would take longer than an iteration.
_LOOKED_AT = 64


def target_facts(given: Any, env: Any) -> str:
    """Return a text that is another one for another target.

    Args:
        given: plain values that the target is made of.
        env: the `VecEnv` whose reward model, known by its name, and questions it is of.
    """
    model = attribute(env, "reward_model")
    pays = None if model is None else label(model)
    return json.dumps([given, pays, _questions(attribute(env, "task"))], sort_keys=True)


def _questions(task: Task) -> list[Any]:
    some = range(0, len(task), max(1, len(task) // _LOOKED_AT))
    text = json.dumps([task.example(i).prompt for i in some])
    return [type(task).__qualname__, len(task), zlib.crc32(text.encode())]


def weights_digest(model: nn.Module | None) -> int:
    """Return a checksum of a model's weights; 0 for none."""
    total = 0
    for tensor in () if model is None else model.state_dict().values():
        total = zlib.crc32(tensor.detach().float().cpu().contiguous().numpy().tobytes(), total)
    return total
