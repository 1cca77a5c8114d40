"""Rewards whitened over each roll-out: components that differ in unit count alike.

RCfD with several rewards (Rita et al., 2024) pays, for each text, the sum of its calibrated
components, each divided by its spread in the batch. A batch is what an environment does not have
and a roll-out is, so this is a callback, for every on-policy algorithm of this package:

```python
reward = Calibrated([[1.0, "preference"], [1.0, {"reward": "length"}]])
agent = PPO("CausalLMPolicy", text_envs.make_sb3("text_envs/Summarization-v0", reward=reward))
agent.learn(50_000, callback=WhitenRewards())
```

Of one component it is the usual normalisation of rewards over a batch. What was paid is recorded
before, so the metrics `rollout/ep_rew_mean` and `rollout/reward_<term>` keep their units.

**Reference**: Rita et al. 2024, arXiv 2404.19409.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents.rollouts.rollout import Rollout
from text_envs.rewards import whiten_components

__all__ = ["WhitenRewards"]


class WhitenRewards(BaseCallback):
    """Pays each text of a roll-out the sum of its whitened components, with its last action.

    Args:
        terms: which components; None for all that the environment's ledger names.
        floor: least standard deviation divided by, see `text_envs.rewards.whiten_components`.
        verbose: not used.

    Raises:
        ValueError: at the end of a roll-out, a component that it does not have.
    """

    def __init__(
        self, terms: Sequence[str] | None = None, *, floor: float = 1e-3, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        if terms is not None and (isinstance(terms, str) or not terms):
            raise ValueError(f"terms must be None or names of components, got {terms!r}")
        self.terms, self.floor = terms, floor

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rollout = self.locals.get("rollout")
        if not isinstance(rollout, Rollout):
            raise TypeError(
                f"{type(self.model).__name__} has no roll-out of whole episodes; accepted: the "
                "on-policy algorithms of `agents`"
            )
        known = list(rollout.reward_terms)
        chosen = known if self.terms is None else list(self.terms)
        if unknown := [name for name in chosen if name not in known]:
            raise ValueError(f"the roll-out has no component {unknown[0]!r}; it has {known}")
        components = torch.stack([rollout.reward_terms[name] for name in chosen], dim=1)  # (B, K)
        paid = whiten_components(components.cpu().numpy(), floor=self.floor).sum(axis=1)  # (B,)
        rollout.rewards.zero_()
        last = rollout.lengths - 1
        rows = torch.arange(len(rollout), device=rollout.rewards.device)
        rollout.rewards[rows, last] = torch.from_numpy(paid).to(rollout.rewards)
