r"""Learning from a guide's texts: PPO++, AggreVaTeD, LOLS, D2LOLS (Chang et al., 2023).

**Idea.** A guide that writes well, a larger model or a script, is asked for texts, never for
probabilities. PPO++ starts the agent in states that the guide has reached: what comes near the end
of a good text is learnt first and often. AggreVaTeD lets the guide finish what the agent has begun:
what the guide makes of a beginning tells how good the beginning is. LOLS mixes the two at random,
D2LOLS does one after the other.

| algorithm | roll-in | roll-out | policy loss | value loss |
|---|---|---|---|---|
| PPO | - | $\pi$ | all tokens | all tokens |
| `PPOPlusPlus` | g | $\pi$ | $t \ge h$ | $t \ge h$, so V is $V^\pi$ |
| `AggreVaTeD` | $\pi$ | g | $t < h$ | $t \ge h$, so V is near $V^g$ |
| `LOLS` | PPO++ with probability $\tau$, else AggreVaTeD | | | a head for each |
| `D2LOLS` | AggreVaTeD for $\tau$ iterations, then PPO++ | | | |

**Equations**, each with the function that computes it; losses and estimators are those of PPO:

- $y$ of length $l$ is rolled in; with probability $\beta$: $h \sim U\{1..l-1\}$ if the guide wrote
  y (`GuidedStarts`), $h \sim U\{1..l\}$ if the agent did (`switch_points`); else, or if there is no
  such number, $h = 0$. The tokens before h stay, the others are written anew
- $R_t = r_t - k\,(\log \pi_{old} - \log \pi_0)(a_t|s_t)$ for the agent's tokens, $r_t$ for the
  guide's: `kl_penalised_rewards`
- $A, G$ by `gae` over the text, across the seam
- with `strict=True` only $a_{h-1}$ is updated, the one deviation from the guide, with
  $A = \frac{m}{\bar m} (\sum_{t \ge h-1} R_t - V(s_{h-1}))$, the sum discounted by $\gamma$, $m$
  the number of places where the seam could be ($l$, or $l - 1$ with `to_the_end=False`). The
  factor makes every state count as often as the agent visits it; without it, actions after which
  texts end soon would count for more

**What they converge to**, with $\gamma = 1$. Mixed starts leave the optimum where it is: PPO++
approaches PPO's $p^* \propto \pi_0 e^{r / k}$. AggreVaTeD in its strict form approaches
$\pi(a|s) \propto \pi_0(a|s)\, e^{Q^g(s, a) / k}$ with $Q^g$ the guide's expected reward: one step
better than the guide, not the optimum. Tests compare both with `text_envs.exact`: on Toy-v0 with
k = 1/2 the objective $E[r] - k\,KL(\pi \| \pi_0)$ of a guide (.3, .4, .3 for a, b, end) is .4411,
of the step .6784, of the optimum .6796. The default form credits a token by what came of the
agent's later ones, too: it learns more from a text, and its target lies beyond the one step.

| symbol | argument | shape or range |
|---|---|---|
| g | `guide`, `guide_kwargs` | what `text_envs.guides.as_guide` takes |
| $\beta$ | `beta` | probability of a seam |
| $\tau$ | `tau` | LOLS: probability; D2LOLS: iterations |
| | `strict` | AggreVaTeD: one update a text |
| | `to_the_end` | whether the agent's roll-in may be its whole text, $h = l$ |
| $k$ | `kl_coef` | reward per nat |
| $h, l$ | | (B,), first token of the roll-out; length of the roll-in |
| | `Rollout.policy_mask`, `critic_mask` | (B, T) |

Everything else is PPO's: `agents.ppo`.

**Pseudo-code** of one iteration:

```
PPO++:      start all texts; the guide writes each; keep h tokens; the agent goes on
AggreVaTeD: the agent writes texts; keep h tokens; the guide goes on
score the agent's tokens under pi_0; A, G <- gae;  PPO's update with the two masks
```

The guide is asked once for each round of `env.num_envs` texts, all of them in one call (in tasks
with turns, once a turn); an environment given by id has as many rows as an iteration has texts.

**Deviations** from the paper and its library: the KL penalty is kept in all algorithms (the library
drops it in all but PPO), and never put on the guide's tokens, whose probabilities nobody knows;
LOLS has two value heads on one model, not two models; a guide's tokens are known by the
environment's roles, not by their ids, so the end token is learnt like any other; the factor of
`strict`. The paper's AggreVaTeD has $h \le l - 1$ (`to_the_end=False`): its policy loss never holds
the agent's end token, and on Toy-v0 the agent falls below the model it started from; a test shows
it.

**Where it runs**: ids without Goal, rows in one batch, no `starts=` of the environment's own. What
a guide finishes is paid by the environment itself and without an outer limit, so that AggreVaTeD
refuses wrappers that change rewards, and limits that cut texts; PPO++ takes both.

**Metrics**: those of PPO, of the texts as they came out, guide's part included, where `rollout/kl_`
and `rollout/entropy` count the agent's tokens only, as do PPO++'s lengths; and `guide/calls`,
`guide/rows`, `guide/tokens` (asked so far), `guide/seams` (share of texts with $h > 0$),
`guide/prefix_length` (mean h), `guide/own_reward` (AggreVaTeD: mean reward of what the agent wrote
alone), `guide/rolls_in` (1 where the guide rolled in, as in PPO++).

**Command**: `python examples/study_rlgf.py`

**References**: Chang et al. 2023, "Learning to Generate Better Than Your LLM", arXiv 2306.11816;
Ross and Bagnell 2014 (AggreVaTe), 1406.5979; Chang et al. 2015 (LOLS), 1502.02206.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from agents.common.checks import require, require_whole
from agents.common.settings import Setting, counting
from agents.losses import on_policy as F
from agents.policies.two_critics import TwoCriticPolicy, TwoCriticSeq2SeqPolicy
from agents.ppo import PPO
from agents.rollouts.rollout import Rollout
from agents.training.guided import GuidedAlgorithm

__all__ = ["LOLS", "AggreVaTeD", "D2LOLS", "PPOPlusPlus"]


class GuidedPPO(GuidedAlgorithm, PPO):
    """What the four share: texts of agent and guide, PPO's update with two masks.

    Args:
        policy: as in `PPO`.
        env: as in `GuidedAlgorithm`.
        **kwargs: arguments of `GuidedAlgorithm` and `PPO`.
    """


class PPOPlusPlus(GuidedPPO):
    """PPO from states that a guide has reached; see the module's card.

    ```python
    agent = PPOPlusPlus("CausalLMPolicy", "text_envs/Reviews-v0", guide="script:expert", beta=0.6)
    ```
    """

    def guide_rolls_in(self) -> bool:
        """Always."""
        return True


class AggreVaTeD(GuidedPPO):
    """The agent begins, the guide finishes; see the module's card.

    Args:
        policy: as in `GuidedPPO`.
        env: as in `GuidedPPO`.
        strict: update only the agent's last token, the one deviation from the guide.
        **kwargs: arguments of `GuidedPPO` and `PPO`.
    """

    strict: Any = Setting(lambda x: isinstance(x, bool), "True or False")

    def __init__(self, policy: Any, env: Any, strict: bool = False, **kwargs: Any) -> None:
        self.strict = strict
        super().__init__(policy, env, **kwargs)

    def guide_rolls_in(self) -> bool:
        """Never: it rolls out."""
        return False

    def train(self) -> None:
        """Update the policy from `self.rollout`; if strict, from the tokens h - 1 alone."""
        assert self.rollout is not None
        if self.strict:
            own = self.rollout.policy_steps
            last = own & (own.cumsum(dim=1) == own.sum(dim=1, keepdim=True))
            self.rollout = replace(self.rollout, policy_mask=last)
        super().train()

    def _advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        advantages, returns = super()._advantages(rollout)
        if self.strict:  # lambda = 1: one deviation, paid with all that came of it
            rewards, steps = self.penalised_rewards(rollout), rollout.policy_steps
            advantages, _ = F.gae(rewards, rollout.values, rollout.mask, self.gamma, 1.0)
            if self.normalize_advantage:
                advantages = F.masked_whiten(advantages, steps)
            # Where a text could have its seam: each of them is as likely.
            seams = torch.tensor([float(info["roll_in_length"]) for info in rollout.infos])
            seams = (seams if self.to_the_end else seams - 1).to(advantages.device)
            advantages = advantages * (seams / F.masked_mean(seams, steps.any(dim=1)))[:, None]
        return advantages, returns


class LOLS(GuidedPPO):
    """PPO++ with probability `tau`, else AggreVaTeD, by iteration; see the module's card.

    Args:
        policy: `"TwoCriticPolicy"`, which `"CausalLMPolicy"` stands for here,
            `"TwoCriticSeq2SeqPolicy"`, likewise `"Seq2SeqPolicy"`, or a subclass of these.
        env: as in `GuidedPPO`.
        tau: probability of an iteration of PPO++.
        **kwargs: arguments of `GuidedPPO` and `PPO`.
    """

    policy: TwoCriticPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "CausalLMPolicy": TwoCriticPolicy,
        "TwoCriticPolicy": TwoCriticPolicy,
        "Seq2SeqPolicy": TwoCriticSeq2SeqPolicy,
        "TwoCriticSeq2SeqPolicy": TwoCriticSeq2SeqPolicy,
    }

    tau: Any = Setting(lambda x: 0 <= x <= 1, "a probability, 0 to 1")

    def __init__(self, policy: Any, env: Any, tau: float = 0.8, **kwargs: Any) -> None:
        require("tau", tau, lambda x: 0 <= x <= 1, "a probability, 0 to 1")
        self.tau = tau
        super().__init__(policy, env, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        if not isinstance(self.policy, TwoCriticPolicy):
            raise ValueError(
                "LOLS learns the agent's value and the guide's, so its policy must be "
                f"'TwoCriticPolicy' or a subclass of it, got {type(self.policy).__name__}"
            )

    def guide_rolls_in(self) -> bool:
        """A coin with `tau`, from numpy's generator, which `seed` sets and checkpoints keep."""
        rolls_in = bool(np.random.random() < self.tau)
        self.policy.critic = "agent" if rolls_in else "guide"
        return rolls_in


class D2LOLS(GuidedPPO):
    """AggreVaTeD for `tau` iterations, then PPO++; see the module's card.

    Args:
        policy: as in `GuidedPPO`.
        env: as in `GuidedPPO`.
        tau: iterations of AggreVaTeD, those of all calls of `learn` together.
        **kwargs: arguments of `GuidedPPO` and `PPO`.
    """

    tau: Any = counting(0)

    def __init__(self, policy: Any, env: Any, tau: int = 20, **kwargs: Any) -> None:
        require_whole("tau", tau, least=0)
        self.tau = int(tau)
        super().__init__(policy, env, **kwargs)

    def guide_rolls_in(self) -> bool:
        """Once `tau` iterations are over."""
        return bool(self.iterations >= self.tau)
