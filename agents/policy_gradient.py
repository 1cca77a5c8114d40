r"""Policy gradients without a value function: REINFORCE, RLOO, GRPO.

**Idea.** A text's reward is compared with that of other texts, and the text is made more likely or
less by the difference. What the three differ in is whom a text is compared with: REINFORCE with all
other texts of the roll-out, RLOO (Ahmadian et al., 2024) with the other texts of the same start,
GRPO (Shao et al., 2024) with the mean of its start in units of the standard deviation.

**Equations**, each with the function that computes it (`agents.losses.on_policy`,
`agents.losses.groups`):

- $R_t = r_t - \beta\,(\log \pi_{old} - \log \pi_0)(a_t | s_t)$: `kl_penalised_rewards`
- $A_i = \sum_t R_t - b_i$, $b_i$ the mean over the others, of the roll-out or of the group:
  `leave_one_out`
- $A_i = (\sum_t R_t - \mathrm{mean}) / \mathrm{std}$ over the group: `group_normalised`
- with `credit="to_go"`: $A_{it} = \sum_{k \ge t} R_k - b_i$: `returns_to_go`
- $L = -\frac{1}{B \bar T} \sum_i \sum_t \min(\rho A, \mathrm{clip}(\rho, 1 \pm \epsilon) A)$ with
  $\rho_t = \pi(a_t|s_t) / \pi_{old}(a_t|s_t)$; at $\rho = 1$ its gradient is that of
  $-\frac{1}{B \bar T} \sum_i A_i \nabla \log \pi(x_i)$: `clipped_policy_loss`
- $- c_H\,\mathrm{mean}\,H$: `entropy`

The expected gradient is that of $E[r] - \beta\,KL(\pi \| \pi_0)$ up to the constant
$1 / \bar T$, the mean length of the roll-out's texts, so with $\beta > 0$ the policy approaches
$p^*(x) \propto \pi_0(x) e^{r(x)/\beta}$, and with $\beta = 0$ it collapses to the best text. GRPO's
division by the deviation changes the objective: it weighs starts by how much their texts differ.
What `top_k` and its like do to $\pi_0$ and the KL is said in PPO's card.

| symbol | argument | shape or range |
|---|---|---|
| $B$ | `n_episodes` | episodes an iteration |
| $k$ | `group_size` | texts of each start, a divisor of the number of environments |
| $b$ | `baseline` | "none", "batch", "group", "normalised" |
| | `credit` | "text" or "to_go" |
| | `batch_size` | sequences a minibatch; None for all |
| | `n_epochs` | passes over a roll-out |
| $\epsilon$ | `clip_range` | None or above 0 |
| $c_H$ | `ent_coef` | at least 0 |
| $\beta$ | `kl_coef`, `kl_target`, `kl_horizon` | as in PPO |
| $\pi_0$ | `reference` | a model; None: the initial policy |
| $A$ | | (B,) or (B, T) |

**Pseudo-code**, as in `train`:

```
play n episodes, k with each start; log pi_old is a by-product of sampling
score them under pi_0;  R <- r - beta (log pi_old - log pi_0);  A <- R - b
repeat n_epochs times, for each minibatch of whole sequences:
    log pi <- one forward pass a sequence;  step on L
adapt beta
```

**Deviations** from the papers: the KL to the reference is a penalty in the reward for all three
(GRPO's own term, $k_3$ as a loss, has the gradient of another divergence); tokens are summed and
not averaged within a text, which would favour short good texts and long bad ones.

**Metrics**: `rollout/ep_rew_mean`, `rollout/ep_len_mean`, `rollout/entropy`,
`rollout/reward_<term>`, `rollout/kl_ref`, `rollout/kl_ref_k3`, `rollout/kl_coef`;
`train/policy_gradient_loss`, `train/entropy_loss`, `train/advantage_std`, `train/approx_kl`,
`train/clip_fraction`, `train/grad_norm`, `train/learning_rate`, `train/n_updates`;
`time/iterations`, `time/fps`, `time/time_elapsed`, `time/total_timesteps`. The `kl` ones need a
reference, `entropy_loss` an `ent_coef`, `clip_fraction` a `clip_range`.

**References**: Williams 1992 (REINFORCE); Ahmadian et al. 2024 (RLOO), arXiv 2402.14740; Shao et
al. 2024 (GRPO), 2402.03300; Korbak et al. 2022 (KL penalties as inference), 2205.11275.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any, ClassVar

import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from typing_extensions import Unpack

from agents.common.checks import require, require_batch, require_whole
from agents.common.settings import Setting, counting
from agents.losses import on_policy as F
from agents.losses.groups import group_normalised, leave_one_out
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollouts.rollout import Rollout
from agents.training.arguments import KLArguments
from agents.training.micro_batches import Part
from agents.training.on_policy import EpisodicAlgorithm

__all__ = ["GRPO", "REINFORCE", "RLOO"]

BASELINES = ("none", "batch", "group", "normalised")
CREDITS = ("text", "to_go")


class PolicyGradient(EpisodicAlgorithm):
    """What the three share; see the module's card for equations and symbols.

    Args:
        group_size: texts of each start; None for what the algorithm is known by.
        baseline: what a text is compared with; None for what the algorithm is known by.
        credit: "text" pays every token with the whole text's advantage, "to_go" with what came
            after it; they differ where rewards or penalties come before the end.
        batch_size: sequences a minibatch; None for the whole roll-out, the unbiased choice. It is
            computed in micro-batches that fit, with the gradient of all.
        n_epochs: passes over a roll-out; more than one wants a `clip_range`.
        clip_range: epsilon of the policy ratio; None leaves the ratio free.
        gamma: discount factor; only with `credit="to_go"`.
        **kwargs: see `agents.training.arguments.KLArguments`.

    Raises:
        ValueError: an argument that cannot work, with the arithmetic and the remedy.
    """

    default_baseline: ClassVar[str] = "batch"
    default_group_size: ClassVar[int] = 1
    baseline: Any = Setting(lambda x: x in BASELINES, f"one of {', '.join(BASELINES)}")
    credit: Any = Setting(lambda x: x in CREDITS, f"one of {', '.join(CREDITS)}")
    batch_size: Any = counting(none=True)
    n_epochs: Any = counting()
    clip_range: Any = Setting(lambda x: x is None or x > 0, "None or above 0")

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        _check_together(self.baseline, self.group_size, self.credit, self.gamma)
        require_batch(self.batch_size, self.n_episodes)

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any,
        learning_rate: float | Schedule = 3e-4,
        n_episodes: int = 64,
        group_size: int | None = None,
        baseline: str | None = None,
        credit: str = "text",
        batch_size: int | None = None,
        n_epochs: int = 1,
        clip_range: float | None = None,
        gamma: float = 1.0,
        ent_coef: float = 0.0,
        **kwargs: Unpack[KLArguments],
    ) -> None:
        baseline = self.default_baseline if baseline is None else baseline
        group_size = self.default_group_size if group_size is None else group_size
        require("baseline", baseline, baseline in BASELINES, f"one of {', '.join(BASELINES)}")
        require("credit", credit, credit in CREDITS, f"one of {', '.join(CREDITS)}")
        _check_together(baseline, group_size, credit, gamma)
        require_whole("n_epochs", n_epochs)
        require("clip_range", clip_range, lambda x: x is None or x > 0, "None or above 0")
        require_batch(batch_size, n_episodes)
        self.baseline, self.credit, self.batch_size = baseline, credit, batch_size
        self.n_epochs, self.clip_range = n_epochs, clip_range
        super().__init__(
            policy,
            env,
            learning_rate,
            n_episodes,
            group_size=group_size,
            gamma=gamma,
            ent_coef=ent_coef,
            **kwargs,
        )

    def train(self) -> None:
        """Update the policy from `self.rollout`."""
        assert self.rollout is not None
        rollout = self.rollout
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        advantages, length = self._advantages(rollout), rollout.lengths.float().mean()
        stats: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(self.n_epochs):
            for index in rollout.minibatches(self.batch_size or len(rollout)):
                loss = partial(self._loss, advantages=advantages[index], length=length)
                for name, value in self.descend(rollout.select(index), loss).items():
                    stats[name].append(value)
            self._n_updates += 1
        self._adapt_kl_coef(rollout)
        stats.pop("loss", None)
        for name, values in stats.items():
            self.logger.record(f"train/{name}", torch.stack(values).mean().item())
        self.logger.record("train/advantage_std", advantages[rollout.mask].std(correction=0).item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _advantages(self, rollout: Rollout) -> Tensor:
        """Return what each token is paid, `(B, T)`."""
        rewards = self.penalised_rewards(rollout)
        totals = rewards.sum(dim=1)  # (B,)
        if self.baseline == "none":
            compared = totals
        elif self.baseline == "batch":
            compared = leave_one_out(totals[None]).flatten() if len(totals) > 1 else totals
        else:
            groups = totals.reshape(-1, self.group_size)  # (G, k), neighbours share their start
            over = leave_one_out if self.baseline == "group" else group_normalised
            compared = over(groups).flatten()
        advantages = compared[:, None].expand(rewards.shape)
        if self.credit == "to_go":
            to_go = F.returns_to_go(rewards, rollout.mask, self.gamma)
            advantages = to_go - (totals - compared)[:, None]  # b = R - A
        return torch.where(rollout.mask, advantages, torch.zeros_like(advantages))

    def _loss(
        self, share: Part[Rollout], advantages: Tensor, length: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a part of a minibatch and what to log, as shares of its means.

        Args:
            share: the part.
            advantages: `(B, T)` of the minibatch.
            length: mean length of the roll-out's texts, `()`.
        """
        part, whole = share.batch, share.whole
        mask, old, count = part.mask, part.log_probs, whole.mask.sum()  # (b, t)
        log_probs, _, entropy = self.policy.evaluate_episodes(
            part.tokens, part.columns, part.actions, mask, with_entropy=self.ent_coef > 0
        )
        clip_range = float("inf") if self.clip_range is None else self.clip_range
        # Per text, in units of the roll-out's mean length: a constant, where the minibatch's own
        # number of tokens would weigh the texts of short minibatches more.
        loss = F.clipped_policy_loss(
            log_probs, old, advantages[share.index, : mask.shape[1]], mask, clip_range,
            len(whole) * length,
        )  # fmt: skip
        metrics = {"policy_gradient_loss": loss}
        if entropy is not None:
            metrics["entropy_loss"] = -F.masked_mean(entropy, mask, count)
            loss = loss + self.ent_coef * metrics["entropy_loss"]
        with torch.no_grad():
            metrics["approx_kl"] = F.masked_mean(F.kl_k3(old, log_probs, mask), mask, count)
            if self.clip_range is not None:
                clipped = F.clip_fraction(log_probs, old, mask, clip_range, count)
                metrics["clip_fraction"] = clipped
        return loss, metrics


def _check_together(baseline: str, group_size: int, credit: str, gamma: float) -> None:
    """Raise a ValueError if arguments that can be used one by one cannot be used together."""
    alone = baseline in ("group", "normalised") and group_size == 1
    require("group_size", group_size, not alone, f"at least 2 with baseline={baseline!r}")
    to_go = credit == "to_go"
    require("credit", credit, not to_go or baseline != "normalised", "'text' with 'normalised'")
    require("gamma", gamma, gamma == 1 or to_go, "1 unless credit='to_go'")


class REINFORCE(PolicyGradient):
    """REINFORCE: each text against the mean of all others of the roll-out; see the card.

    ```python
    agent = REINFORCE("CausalLMPolicy", "text_envs/Reviews-v0", kl_coef=0.1)
    ```
    """


class RLOO(PolicyGradient):
    """REINFORCE leave-one-out: each text against the others of its own start; see the card.

    ```python
    agent = RLOO("CausalLMPolicy", "text_envs/Reviews-v0", group_size=4, kl_coef=0.1)
    ```
    """

    default_baseline = "group"
    default_group_size = 4


class GRPO(PolicyGradient):
    """Group-relative: each text in standard deviations from its start's mean; see the card.

    ```python
    agent = GRPO("CausalLMPolicy", "text_envs/Reviews-v0", group_size=8, n_epochs=2, clip_range=0.2)
    ```
    """

    default_baseline = "normalised"
    default_group_size = 8
