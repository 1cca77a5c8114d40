r"""Proximal policy optimisation over whole texts (Schulman et al., 2017), with KL control.

**Idea.** Sample texts, ask how much better each token turned out than the value function expected,
and make better-than-expected tokens more likely, but by no more than a factor $1 \pm \epsilon$ an
iteration. A KL penalty keeps the policy near the language model it started from.

**Equations**, each with the function that computes it (`agents.losses.on_policy`):

- $R_t = r_t - \beta\,(\log \pi_{old} - \log \pi_0)(a_t | s_t)$: `kl_penalised_rewards`
- $\delta_t = R_t + \gamma V_{t+1} - V_t$, $\hat A_t = \sum_k (\gamma\lambda)^k \delta_{t+k}$,
  $G_t = \hat A_t + V_t$: `gae`
- $A = (\hat A - \mathrm{mean}) / \mathrm{std}$ over the roll-out: `masked_whiten`
- $L^\pi = -\mathrm{mean} \min(\rho A, \mathrm{clip}(\rho, 1 \pm \epsilon) A)$ with
  $\rho_t = \pi(a_t|s_t) / \pi_{old}(a_t|s_t)$: `clipped_policy_loss`
- $L^V = \mathrm{mean}\,(G - V)^2$: `value_loss`; $H$: `entropy`
- $L = L^\pi + c_V L^V - c_H \,\mathrm{mean}\,H$
- with a target: $\beta \leftarrow \beta\,(1 + \frac{n}{H} \mathrm{clip}(KL/KL^* - 1, \pm 0.2))$:
  `adaptive_kl_coefficient`

The optimum of $E[r] - \beta\,KL(\pi \| \pi_0)$ is known: $p^*(x) \propto \pi_0(x) e^{r(x)/\beta}$.
With $\gamma = 1$ the penalised return is exactly this objective, so the policy approaches $p^*$; a
test measures how closely. All of $\pi$, $\pi_{old}$ and $\pi_0$ are the models as they are sampled
from (temperature, repetition penalty, `top_k`, ...): the penalty is to the reference with the same
settings, 0 for equal weights. Where that reference would leave a token out (`top_k`, `top_p`,
`min_p`) it scores it as if it kept it, see `text_envs.lm.choosing`; the measured KL then lies below
that to the whole reference, by at most $-\log$ of the share it keeps at each token, and $p^*$ is
reached as far as $\pi$ may write its texts.

| symbol | argument | shape or range |
|---|---|---|
| $n$ | `n_episodes` | episodes an iteration |
| | `batch_size` | sequences a minibatch |
| | `n_epochs` | passes over a roll-out |
| $\gamma, \lambda$ | `gamma`, `gae_lambda` | [0, 1] |
| $\epsilon$ | `clip_range` | above 0, or a schedule |
| $\epsilon_V$ | `clip_range_vf` | None, above 0, or a schedule |
| $c_V, c_H$ | `vf_coef`, `ent_coef` | at least 0 |
| $\beta$ | `kl_coef` | at least 0, reward per nat |
| $KL^*, H$ | `kl_target`, `kl_horizon` | nats an episode; episodes |
| $\pi_0$ | `reference` | a model; None: the initial policy |
| $r, R, V, A, G, \log \pi$ | | (B, T), with a mask |

**Pseudo-code**, as in `train`:

```
play n episodes with pi; log pi_old and V_old are by-products of sampling
score them under pi_0
R <- r - beta (log pi_old - log pi_0);  A, G <- gae(R, V_old);  whiten A over the roll-out
repeat n_epochs times, for each minibatch of whole sequences:
    log pi, V <- one forward pass a sequence
    stop if the KL to pi_old exceeds 1.5 target_kl
    step on L
adapt beta
```

**Deviations** from the paper and from Stable-Baselines3: episodes are whole, never cut at a number
of steps; minibatches consist of sequences; advantages are normalised over the roll-out and not in
each minibatch, whose mean would depend on what else is in it; $\gamma = 1$ by default; the KL
penalty and its adaptation (Ziegler et al., 2019) are added. On the same transitions as one batch,
loss and gradient equal those of Stable-Baselines3; a test shows it.

**Metrics**: `rollout/ep_rew_mean`, `rollout/ep_len_mean`, `rollout/entropy`,
`rollout/reward_<term>`, `rollout/kl_ref`, `rollout/kl_ref_k3`, `rollout/kl_coef`;
`train/policy_gradient_loss`, `train/value_loss`, `train/entropy_loss`, `train/loss`,
`train/approx_kl`, `train/clip_fraction`, `train/clip_range`, `train/clip_range_vf`,
`train/explained_variance`, `train/grad_norm`, `train/learning_rate`, `train/n_updates`;
`time/iterations`, `time/fps` (agent tokens a second), `time/time_elapsed`,
`time/total_timesteps`. The `kl` ones need a reference, `entropy_loss` an `ent_coef`,
`clip_range_vf` that argument.

**Command**: `python examples/quickstart.py`

**References**: Schulman et al. 2017, arXiv 1707.06347; Schulman et al. 2016 (GAE), 1506.02438;
Ziegler et al. 2019, 1909.08593; Korbak et al. 2022 (KL penalties as inference), 2205.11275.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import stable_baselines3
import torch
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor
from typing_extensions import Unpack

from agents.common.checks import require, require_batch, require_whole
from agents.common.settings import Setting, counting
from agents.losses import on_policy as F
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollouts.rollout import Rollout
from agents.training.arguments import KLArguments
from agents.training.micro_batches import Part
from agents.training.on_policy import EpisodicAlgorithm

__all__ = ["PPO"]


class PPO(EpisodicAlgorithm, stable_baselines3.PPO):
    """PPO over whole texts; see the module's card for equations and symbols.

    ```python
    agent = PPO("CausalLMPolicy", "text_envs/Reviews-v0", kl_coef=0.1)
    agent.learn(100_000, progress_bar=True)
    ```

    Args:
        learning_rate: a number, or a function of the remaining progress. The default suits the
            bundled model; a pretrained GPT-2 wants about a tenth of it.
        batch_size: sequences a minibatch.
        n_epochs: passes over a roll-out. Many small minibatches in one pass learn more a second
            than several passes over larger ones.
        clip_range: epsilon of the policy ratio.
        clip_range_vf: epsilon of the value, in units of reward; None to leave it free.
        normalize_advantage: whiten advantages over the roll-out.
        target_kl: stop an iteration's epochs when the KL to the sampling policy exceeds 1.5 times
            this, in nats a token; None for never.
        **kwargs: see `agents.training.arguments.KLArguments`.

    Raises:
        ValueError: an argument that cannot work, with the arithmetic and the remedy.
    """

    batch_size: Any = counting()
    n_epochs: Any = counting()
    clip_range: Any = Setting(lambda x: callable(x) or x > 0, "above 0 or a schedule")
    clip_range_vf: Any = Setting(
        lambda x: x is None or callable(x) or x > 0, "above 0 or a schedule"
    )
    normalize_advantage: Any = Setting(lambda x: isinstance(x, bool), "True or False")
    target_kl: Any = Setting(lambda x: x is None or x > 0, "None or above 0")

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        if name in ("n_episodes", "batch_size"):
            require_batch(self.batch_size, self.n_episodes, none=False)
        if name in ("clip_range", "clip_range_vf") and vars(self)[name] is not None:
            vars(self)[name] = FloatSchedule(vars(self)[name])

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any,
        learning_rate: float | Schedule = 3e-4,
        n_episodes: int = 64,
        batch_size: int = 8,
        n_epochs: int = 1,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        target_kl: float | None = None,
        **kwargs: Unpack[KLArguments],
    ) -> None:
        require_batch(batch_size, n_episodes, none=False)
        for name, limit in (("clip_range", clip_range), ("clip_range_vf", clip_range_vf)):
            fine = callable(limit) or limit is None  # the second may be left out
            require(name, limit, fine or (lambda x: x > 0), "above 0 or a schedule")
        require_whole("n_epochs", n_epochs)
        require("target_kl", target_kl, lambda x: x is None or x > 0, "None or above 0")
        super().__init__(
            policy,
            env,
            learning_rate,
            n_episodes,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            **kwargs,
            _library={
                "batch_size": batch_size,
                "n_epochs": n_epochs,
                "clip_range": clip_range,
                "clip_range_vf": clip_range_vf,
                "normalize_advantage": False,  # it would ask for batch_size > 1; set below
                "target_kl": target_kl,
            },
        )
        self.normalize_advantage = normalize_advantage

    def train(self) -> None:
        """Update the policy from `self.rollout`."""
        assert self.rollout is not None
        rollout = self.rollout
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        advantages, returns = self._advantages(rollout)
        stats: dict[str, list[Tensor]] = defaultdict(list)
        going_on = True
        for _ in range(self.n_epochs):
            for index in rollout.minibatches(self.batch_size):
                loss = partial(self._loss, advantages=advantages[index], returns=returns[index])
                for name, value in self.accumulate(rollout.select(index), loss).items():
                    stats[name].append(value)
                if self.target_kl is not None and stats["approx_kl"][-1] > 1.5 * self.target_kl:
                    going_on = False
                    break
                stats["grad_norm"].append(self.step())
            self._n_updates += 1
            if not going_on:
                break
        self._adapt_kl_coef(rollout)
        for name, values in stats.items():
            self.logger.record(f"train/{name}", torch.stack(values).mean().item())
        explained = F.explained_variance(rollout.values, returns, rollout.critic_steps)
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", self._now(self.clip_range))
        if self.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", self._now(self.clip_range_vf))

    def _advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return advantages and returns `(B, T)` of the penalised rewards."""
        rewards = self.penalised_rewards(rollout)
        advantages, returns = F.gae(
            rewards, rollout.values, rollout.mask, self.gamma, self.gae_lambda, rollout.bootstrap
        )
        if self.normalize_advantage:
            advantages = F.masked_whiten(advantages, rollout.policy_steps)
        return advantages, returns

    def _loss(
        self, share: Part[Rollout], advantages: Tensor, returns: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a part of a minibatch and what to log, as shares of its means.

        Args:
            share: the part.
            advantages: `(B, T)` of the minibatch.
            returns: `(B, T)` of the minibatch.
        """
        part, whole, longest = share.batch, share.whole, share.batch.mask.shape[1]
        advantages, returns = (x[share.index, :longest] for x in (advantages, returns))
        # What a guide wrote is in the text, but not the policy's doing.
        own, judged = part.policy_steps, part.critic_steps  # (b, t)
        count, count_judged = whole.policy_steps.sum(), whole.critic_steps.sum()
        old_log_probs, clip_range = part.log_probs, self._now(self.clip_range)
        log_probs, values, entropy = self.policy.evaluate_episodes(
            part.tokens, part.columns, part.actions, part.mask, with_entropy=self.ent_coef > 0
        )
        policy_loss = F.clipped_policy_loss(
            log_probs, old_log_probs, advantages, own, clip_range, count
        )
        clip_range_vf = None if self.clip_range_vf is None else self._now(self.clip_range_vf)
        value_loss = F.value_loss(values, returns, judged, part.values, clip_range_vf, count_judged)
        loss: Tensor = policy_loss + self.vf_coef * value_loss
        with torch.no_grad():
            k3 = F.kl_k3(old_log_probs, log_probs, own)
            clipped = F.clip_fraction(log_probs, old_log_probs, own, clip_range, count)
            metrics = {
                "policy_gradient_loss": policy_loss,
                "value_loss": value_loss,
                "approx_kl": F.masked_mean(k3, own, count),
                "clip_fraction": clipped,
            }
        if entropy is not None:
            metrics["entropy_loss"] = -F.masked_mean(entropy, own, count)
            loss = loss + self.ent_coef * metrics["entropy_loss"]
        return loss, metrics

    def _now(self, schedule: Any) -> float:
        """Return the value of a schedule at the present progress."""
        return float(schedule(self._current_progress_remaining))
