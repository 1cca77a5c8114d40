"""What a policy knows about being saved: its arguments as they are now, its models, its exports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import torch

from agents.checkpoints.exports import export_merged
from agents.checkpoints.policies import load_policy, save_policy
from agents.common.settings import is_live

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from typing_extensions import Self

__all__ = ["StoredPolicy"]


class StoredPolicy:
    """A policy that is saved as safetensors and JSON, and handed on as a model of transformers.

    Attributes:
        arguments: those of the constructor, by name; what may be changed is kept up to date.
    """

    arguments: dict[str, Any]

    def present_arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor that would make this policy as it is now."""
        return {k: getattr(self, k) if is_live(self, k) else v for k, v in self.arguments.items()}

    @property
    def further_models(self) -> dict[str, PreTrainedModel]:
        """Language models beside the actor's that a checkpoint keeps, by their arguments' names."""
        return {}

    def save(self, path: str | os.PathLike[str], *, save_base: bool = False) -> None:
        """Save weights and arguments as safetensors and JSON, to a folder or a `.zip`.

        Args:
            path: where to; replaced at once, never half.
            save_base: of a model with adapters, save the frozen base too. Otherwise its name is
                kept; where nothing of that name has these weights, the base is saved anyway.
        """
        save_policy(self, path, save_base=save_base)

    def merge_and_export(
        self, folder: str | os.PathLike[str], *, dtype: str | torch.dtype | None = None
    ) -> None:
        """Write the language model, adapters merged, as a plain folder of transformers.

        `AutoModelForCausalLM`, `AutoTokenizer` and `pipeline("text-generation", model=folder)`
        read it, and need no peft. The policy stays as it is.

        Args:
            folder: a new or an empty one.
            dtype: of the weights; None for the policy's. Adapters are added in float32, and
                "bfloat16" rounds the sum.

        Raises:
            ValueError: the folder holds something, or `dtype` is none.
        """
        export_merged(self, folder, dtype)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: torch.device | str = "auto",
        **overrides: Any,
    ) -> Self:
        """Return a policy from `save`, or from a saved algorithm.

        Args:
            path: folder or `.zip`.
            device: where to put it.
            **overrides: arguments to use instead of the saved ones; `model` for an architecture
                that transformers cannot build by itself, or for the base of saved adapters.
        """
        return cast("Self", load_policy(cls, path, device, **overrides))
