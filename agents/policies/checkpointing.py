"""The setting that turns gradient checkpointing of a policy's models on and off."""

from __future__ import annotations

from typing import Any

from agents.common.settings import PolicySetting
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.checkpointing import is_checkpointing, set_checkpointing

__all__ = ["Checkpointing"]


class Checkpointing(PolicySetting):
    """Whether the models of a policy compute their states again in the backward pass.

    None stands for what the language model of the actor was given with.
    """

    def __init__(self) -> None:
        super().__init__(lambda x: x is None or isinstance(x, bool), "None, True or False")

    def __set__(self, owner: Any, value: Any) -> None:
        """Tell all models; a family that cannot is refused, and nothing is changed."""
        if value is None:
            value = is_checkpointing(owner.actor.lm)
        if isinstance(value, bool):
            for module in owner.modules():
                if isinstance(module, ActionLM):
                    set_checkpointing(module.lm, value)
        super().__set__(owner, value)
