"""B whole episodes as tensors: what on-policy algorithms learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from text_envs.lm.transfers import on_host, remember, to_device

__all__ = ["Rollout"]

# What has one number a step, padded where episodes of several roll-outs come together.
_STEPWISE = (
    "columns", "actions", "rewards", "mask", "log_probs", "values", "ref_log_probs",
    "policy_mask", "critic_mask",
)  # fmt: skip

# What decides the shapes of a forward pass: the host keeps its own copy beside the accelerator's.
_ON_HOST = ("tokens", "columns", "mask", "policy_mask", "critic_mask")


@dataclass
class Rollout:
    """B whole episodes of up to T agent steps, right-padded; `mask` says which steps exist.

    Attributes:
        tokens: `(B, L)` int64, the final observation: prompt, actions, replies, padding.
        columns: `(B, T)` int64, the last filled column when action t was chosen; between two
            actions there may be the tokens of a reply.
        actions: `(B, T)` int64.
        rewards: `(B, T)` float32.
        mask: `(B, T)` bool.
        log_probs: `(B, T)` float32, of the actions under the policy that sampled.
        values: `(B, T)` float32, its values.
        truncated: `(B,)` bool, cut by an outer limit.
        bootstrap: `(B,)` float32, value after the last action; 0 unless truncated.
        infos: the last info of each episode (`finish_reason`, `text`, `roles`, ...).
        reward_terms: `(B,)` float32 each, the ledger summed over the episode.
        ref_log_probs: `(B, T)` float32, of the actions under the reference, or None.
        policy_mask: bool `(B, T)`, the steps that the policy loss is about; None for all.
        critic_mask: bool `(B, T)`, the steps that the value loss is about; None for all.
    """

    tokens: Tensor
    columns: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    log_probs: Tensor
    values: Tensor
    truncated: Tensor
    bootstrap: Tensor
    infos: list[dict[str, Any]] = field(default_factory=list)
    reward_terms: dict[str, Tensor] = field(default_factory=dict)
    ref_log_probs: Tensor | None = None
    policy_mask: Tensor | None = None
    critic_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        shapes = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = [f"{k}={tuple(v.shape)}" for k, v in shapes.items() if isinstance(v, Tensor)]
        return f"Rollout({len(self)} episodes, {int(self.mask.sum())} tokens: {', '.join(tensors)})"

    @property
    def policy_steps(self) -> Tensor:
        """Steps that the policy loss is about, bool `(B, T)`."""
        return self.mask if self.policy_mask is None else self.policy_mask

    @property
    def critic_steps(self) -> Tensor:
        """Steps that the value loss is about, bool `(B, T)`."""
        return self.mask if self.critic_mask is None else self.critic_mask

    @property
    def lengths(self) -> Tensor:
        """Agent steps of each episode, `(B,)` int64."""
        return self.mask.sum(dim=1)

    @property
    def episode_rewards(self) -> Tensor:
        """Sum of rewards of each episode, `(B,)`."""
        return self.rewards.sum(dim=1)

    def to(self, device: torch.device | str) -> Rollout:
        """Return the roll-out with its tensors on `device`."""
        moved: dict[str, Any] = {
            f.name: to_device(getattr(self, f.name), device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        terms = {name: term.to(device) for name, term in self.reward_terms.items()}
        return replace(self, reward_terms=terms, **moved)

    @staticmethod
    def cat(rollouts: Sequence[Rollout]) -> Rollout:
        """Return the episodes of several roll-outs as one, in their order."""
        longest = max(rollout.mask.shape[1] for rollout in rollouts)
        if any(r.policy_mask is not None or r.critic_mask is not None for r in rollouts):
            rollouts = [
                replace(r, policy_mask=r.policy_steps, critic_mask=r.critic_steps) for r in rollouts
            ]

        def joined(name: str) -> Tensor:
            parts = [getattr(rollout, name) for rollout in rollouts]
            if name in _STEPWISE:
                parts = [nn.functional.pad(x, (0, longest - x.shape[1])) for x in parts]
            return torch.cat(parts)

        apart = {"infos", "reward_terms"}
        tensors = {
            f.name
            for f in fields(Rollout)
            if f.name not in apart and all(getattr(r, f.name) is not None for r in rollouts)
        }
        terms = dict.fromkeys(name for rollout in rollouts for name in rollout.reward_terms)
        return Rollout(
            **{name: joined(name) for name in tensors},
            infos=[info for rollout in rollouts for info in rollout.infos],
            reward_terms={
                name: torch.cat(
                    [r.reward_terms.get(name, torch.zeros_like(r.bootstrap)) for r in rollouts]
                )
                for name in terms
            },
        )

    def select(self, index: Tensor) -> Rollout:
        """Return the episodes `index` `(b,)`, cut to the longest of them."""
        at, mask = on_host(index, self.mask)
        longest = int(mask[at].sum(axis=1).max(initial=0))
        chosen = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                steps = slice(longest) if name in _STEPWISE else slice(None)
                chosen[name] = value[index] if steps.stop is None else value[index, steps]
                if name in _ON_HOST and value.device.type != "cpu":
                    remember(chosen[name], on_host(value)[0][at][:, steps])
        terms = {name: term[index] for name, term in self.reward_terms.items()}
        infos = [self.infos[i] for i in at.tolist()] if self.infos else []
        return replace(self, infos=infos, reward_terms=terms, **chosen)

    def minibatches(self, size: int) -> Iterator[Tensor]:
        """Yield index tensors `(<= size,)` of a random partition, from torch's generator."""
        for part in torch.randperm(len(self)).split(size):
            yield to_device(part, self.tokens.device)
