"""The frozen second model of an algorithm: made, exchanged, named, and in step with the policy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from agents.common.checks import require
from agents.policies.causal_lm import CausalLMPolicy
from agents.training.algorithm import TextAlgorithm
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.adapters import without_adapters
from text_envs.lm.loading import BUNDLED, freeze
from text_envs.lm.sharing import SharedReference, load_own_state, shared_copy
from text_envs.policies.sources import check_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ReferencedAlgorithm"]


class ReferencedAlgorithm(TextAlgorithm):
    """A `TextAlgorithm` that may score texts under a reference.

    A subclass sets `kl_coef` and `_reference_source`, and calls `make_reference` when the policy is
    there.
    """

    policy: CausalLMPolicy
    needs_reference: ClassVar[bool] = False  # even with kl_coef=0
    kl_coef: Any
    _reference: ActionLM | None = None
    _bundled: tuple[str, int] | None = None  # the reference's name, and its weights then
    _reference_source: Any

    def make_reference(self) -> None:
        """Make the reference of what was given, or of the policy as it is."""
        if self._reference_source is not None:
            self.reference = self._reference_source
        elif self.kl_coef > 0 or self.needs_reference:
            self._reference = freeze(self.policy.actor)
            self._name_reference(self.policy.arguments.get("model"))

    @property
    def reference(self) -> ActionLM | None:
        """The frozen second model, at the policy's temperature and goal; None without one.

        It may be set, to what the argument takes.
        """
        if self._reference is not None:  # so that equal weights have no KL, whatever was set
            self._reference.adopt(self.policy.actor)
        return self._reference

    @reference.setter
    def reference(self, source: Any) -> None:
        if isinstance(source, SharedReference):
            self._share_base(source)
        elif source is None:
            accepted = "a model: the KL, or the target, is to one"
            require("reference", source, not (self.kl_coef or self.needs_reference), accepted)
            self._reference, self._bundled = None, None
        else:
            lm = source.lm if isinstance(source, ActionLM) else self._load_reference(source)
            self._reference = freeze(self.policy.actor.like(lm)).to(self.device)
            self._name_reference(source)
        self.changed("reference")

    def _share_base(self, source: SharedReference) -> None:
        """Make the reference that a checkpoint has kept the adapters of."""
        actor = shared_copy(self.policy.actor)
        if not source.adapters:
            without_adapters(actor.lm)
        load_own_state(actor, source.state)
        self._reference, self._bundled = freeze(actor), None

    @property
    def reference_name(self) -> str | None:
        """The name of the reference if it is a bundled model, and still as that is."""
        if self._bundled is None or self._reference is None:
            return None
        name, mark = self._bundled
        return name if mark == self._reference.weights_mark() else None

    def _name_reference(self, source: Any) -> None:
        named = isinstance(source, str) and source in BUNDLED and self._reference is not None
        self._bundled = (source, self._reference.weights_mark()) if named else None  # type: ignore

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has, see `TextAlgorithm`."""
        return super().__getstate__() | {"_bundled_name": self.reference_name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a copy's state; its weights lie elsewhere."""
        name = state.pop("_bundled_name", None)
        vars(self).update(state)
        self._name_reference(name)

    def _load_reference(self, source: Any) -> PreTrainedModel:
        """Return the language model of the reference, which must know the same words."""
        lm, own = self.policy.load_model(source, self._reference_dtype(source))
        if self.env is not None and isinstance(source, str | os.PathLike):
            name, tokenizer = f"reference {os.fspath(source)!r}", self.env.get_attr("tokenizer")[0]
            check_tokens(name, own, tokenizer, source=source, ends=False)
        return lm

    def _reference_dtype(self, source: Any) -> Any:
        """Return the type of a reference's weights: the policy's, unless it comes as an object."""
        return None if hasattr(source, "parameters") else self.policy.arguments["dtype"]
