"""A policy with two value heads: the agent's own value, and that of a guide who goes on."""

from __future__ import annotations

import copy
from typing import Any, cast

from torch import Tensor

from agents.common.settings import Setting
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.seq2seq import Seq2SeqPolicy
from text_envs.lm.precision import outside_autocast

__all__ = ["TwoCriticPolicy", "TwoCriticSeq2SeqPolicy"]


class TwoCriticPolicy(CausalLMPolicy):
    """`CausalLMPolicy` whose value head can be exchanged for a second one.

    Attributes:
        critic: "agent" or "guide", which head speaks and learns.
    """

    critic: Any = Setting(lambda x: x in ("agent", "guide"), "'agent' or 'guide'")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.critic = "agent"
        self.guide_value_net = copy.deepcopy(self.value_net)
        self.optimizer.add_param_group({"params": list(self.guide_value_net.parameters())})

    @outside_autocast
    def _values(self, hidden: Tensor) -> Tensor:
        if self.critic == "agent":
            return super()._values(hidden)
        hidden = hidden.detach() if self.detach_value else hidden
        return cast(Tensor, self.guide_value_net(hidden.float())).squeeze(1)


class TwoCriticSeq2SeqPolicy(TwoCriticPolicy, Seq2SeqPolicy):
    """A `TwoCriticPolicy` over an encoder-decoder model."""
