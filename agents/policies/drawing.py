"""How a policy draws tokens: its settings, kept at its language model, and single draws."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, cast

import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from agents.policies.generation import generate
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.likelihood import sample, token_log_probs
from text_envs.lm.sampling import Sampling

__all__ = ["Draws"]


def _setting(name: str, doc: str) -> Any:
    """Return a property that is a field of the actor's `Sampling`."""

    def get(policy: Draws) -> Any:
        return getattr(policy.actor.sampling, name)

    def put(policy: Draws, value: Any) -> None:
        policy.actor.sampling = replace(policy.actor.sampling, **{name: value})

    return property(get, put, doc=f"{doc}; at any time that of `actor`.")


class Draws:
    """Settings of the distribution that a policy draws from, see `text_envs.lm.sampling`."""

    actor: ActionLM
    temperature: Any = _setting("temperature", "What divides the scores")
    top_k: Any = _setting("top_k", "How many of the likeliest tokens may be drawn, or None")
    top_p: Any = _setting("top_p", "What probability the likeliest tokens make up, or None")
    min_p: Any = _setting("min_p", "The least share of the likeliest token's probability, or None")
    repetition_penalty: Any = _setting("repetition_penalty", "What makes repeated tokens unlikely")
    min_tokens: Any = _setting("min_tokens", "How many tokens stand before the end of a text")

    def set_sampling(self, **settings: Any) -> dict[str, Any]:
        """Give the actor its settings; return all of them by name, as arguments to be saved."""
        self.actor.sampling = Sampling(**settings)
        return asdict(self.actor.sampling)

    def generate(self, prompts: Any, **kwargs: Any) -> list[Any]:
        """Return what this policy writes to prompts, see `agents.policies.generation.generate`.

        Args:
            prompts: texts, or lists of messages.
            **kwargs: `max_tokens`, `n`, `seed`, `stop`, `deterministic`, `temperature`, ...
        """
        return generate(self, prompts, **kwargs)

    def _next_logits(self, hidden: Tensor, obs: PyTorchObs) -> Tensor:
        """Return the scores `(n, A)` that the next token of each observation is drawn from."""
        return self.actor.sampling_logits(hidden, self.actor.seen(cast(Tensor, obs).long()))

    def _choose(self, logits: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """Return actions `(n,)` and their log-probabilities."""
        if not deterministic:
            with torch.no_grad():
                actions, log_probs = sample(logits)
            return actions, token_log_probs(logits, actions) if logits.requires_grad else log_probs
        actions = logits.argmax(dim=1)
        return actions, token_log_probs(logits, actions)
