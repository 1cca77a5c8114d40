r"""Distributional policy gradients: make a language model sample from a target distribution.

**Idea.** Instead of maximising a reward, say which distribution over texts is wanted, as a factor
on the model one starts from: texts that pass a filter, texts weighted by $e^{r/\beta}$, or texts
whose features have given means (generation with distributional control, Khalifa et al., 2021). Then
minimise a divergence between that target and the policy. There is nothing to collapse to: the
target keeps the diversity that the constraint leaves it.

**Equations**, each with the function that computes it (`agents.losses.distributional`,
`agents.training.targets`):

- $P(x) = \pi_0(x) e^{u(x)}$, $u = r / \beta$: `RewardTarget`; 0 or $-\infty$: `FilterTarget`;
  $\lambda \cdot \phi$: `MomentTarget`
- $\lambda \leftarrow \lambda + \eta\,C^{-1} (\mu - \sum w \phi / \sum w)$ with
  $w = (\pi_0/q) e^{\lambda\phi}$, for each start its own $\sum w$: `fit_multipliers`
- $Z = E_q[P/q]$, for each start $c$ its own $Z(c)$: `log_normaliser`, averaged over iterations by
  `agents.training.normalisers`
- $\nabla KL(p \| \pi) = -E_q[(\frac{P}{Z q} - \frac{\pi}{q}) \nabla \log \pi]$; for another
  divergence $\nabla D_f = E_q[\frac{\pi}{q} (f'(\pi/p) - b) \nabla \log \pi]$: `dpg_weights`,
  `f_derivative`
- $KL(p \| \pi) = E_q[\frac{P}{Z q} (\log \frac{P}{Z} - \log \pi)]$: `kl_to_target`
- $TVD = \frac12 E_q |\frac{\pi}{q} - \frac{P}{Z q}|$: `total_variation`
- $ESS = (\sum w)^2 / (B \sum w^2)$, $w = P / (Z q)$: `effective_sample_size`

With $u = r / \beta$ and `divergence="reverse_kl"` this is KL-regularised reinforcement learning;
the other divergences approach the same $p^*$ from other sides.

| symbol | argument | shape or range |
|---|---|---|
| $\beta$ | `beta` | above 0, reward per nat |
| | `accept` | texts with at least this reward pass |
| $\mu$ | `moments` | {term of the ledger, or "reward": wanted mean} |
| $\lambda$ | `multipliers` | fitted from `fit_episodes` texts, or given |
| $f$ | `divergence` | "kl", "reverse_kl", "tv", "js", "chi2", "reverse_chi2" |
| $b$ | `baseline` | bool |
| $q$ | `proposal` | "policy", "adaptive", "reference" |
| | `proposal_interval` | iterations between two looks at an adaptive proposal |
| $B$ | `n_episodes` | texts an iteration |
| | `group_size` | texts of each start, 32 to 64 where starts differ; 1: one Z for all starts |
| | `batch_size` | sequences a minibatch; None for all |
| $P, q, \pi, w$ | | (B,), logarithms in float64 |

**Pseudo-code**, as in `train`:

```
once, with moments: sample fit_episodes texts; lambda <- fit
sample B texts from q, group_size of each start;  log P <- log pi0 + u
Z <- running mean over all iterations, one a start
for each minibatch of whole sequences:
    log pi <- one forward pass a sequence;  step on -mean(w log pi), w constant
adaptive, every proposal_interval iterations:  if KL(p || pi) < KL(p || q):  q <- pi
```

**Deviations** from the papers: $Z$ is averaged over all iterations, whatever proposal sampled (each
estimate is unbiased), in place of a moving window; the divergences that decide about the proposal
are those of the last roll-out, with $\log \pi$ of the training pass; the steps towards the
multipliers are Newton's, $C$ the covariance of $\phi$ under $P$, as a fixed step oscillates where a
feature is rare.

**Sampling settings**: temperature, repetition penalty and least length are the policy's, the
proposal's and the reference's alike, so $\pi_0$ in $P$ is the reference sampled that way, and $Z$
and all KLs are of it. `top_k`, `top_p` and `min_p` are refused: they give texts of the target's
support the probability 0, which no weight makes good.

**Metrics**: `target/log_z` (mean over texts), `target/ess` (share of the samples that count),
`target/kl_p_pi`, `target/kl_p_q`, `target/tvd`, `target/coverage` (share of samples in the
target's support), `target/moment_<term>` (mean feature of the samples of q),
`target/multiplier_<term>`; `train/dpg_loss`, `train/grad_norm`, `train/learning_rate`,
`train/n_updates`; `rollout/...` and `time/...` as in PPO, of texts sampled by q. The moments need
`moments`.

**References**: Korbak et al. 2022 (KL penalties as inference), arXiv 2205.11275; Parshakova et al.
2019 (DPG), 1912.08517; Khalifa et al. 2021 (GDC), 2012.11635; Korbak et al. 2022 (GDC++, and DPG
for conditional models), 2206.00761, 2112.00791; Go et al. 2023 (f-DPG), 2302.08215.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from typing_extensions import Unpack

from agents.common.checks import require, require_batch, require_whole
from agents.common.settings import Setting, counting
from agents.losses.distributional import (
    DIVERGENCES,
    effective_sample_size,
    kl_to_target,
    total_variation,
    weights_where_known,
)
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollouts.episodes import score
from agents.rollouts.rollout import Rollout
from agents.training.arguments import ReferenceArguments
from agents.training.distributional import TargetAlgorithm
from agents.training.micro_batches import Part
from agents.training.targets import MomentTarget, make_target
from text_envs.lm.sharing import load_own_state, own_state, shared_copy

__all__ = ["DPG"]

PROPOSALS = ("policy", "adaptive", "reference")


class DPG(TargetAlgorithm):
    """Distributional policy gradients; see the module's card for equations and symbols.

    ```python
    agent = DPG("CausalLMPolicy", "text_envs/Reviews-v0", beta=0.1, group_size=32)
    agent.learn(100_000, progress_bar=True)
    ```

    Exactly one of `beta`, `accept` and `moments` says what the target is; or the last two, for
    moments among the texts that pass.

    Args:
        beta: the target is `pi0 exp(r / beta)`.
        accept: the target is the reference, given a reward of at least this.
        moments: the target is nearest to the reference with these means of the ledger's terms.
        divergence: what is minimised, see the card.
        baseline: subtract the mean from the weights.
        proposal: "policy" samples from what is trained, "adaptive" from the best policy so far,
            "reference" from the reference, which is `reference` if that is given.
        proposal_interval: iterations between two looks at an adaptive proposal.
        group_size: texts of each start, with a normaliser for each; 1 for one normaliser over
            all starts, right where there is one start.
        batch_size: sequences a minibatch; None for the whole roll-out. It is computed in
            micro-batches that fit, with the gradient of all.
        fit_episodes: texts from which multipliers are fitted; None for four roll-outs.
        multipliers: of the moments, if they are known; None to fit them.
        **kwargs: see `agents.training.arguments.ReferenceArguments`.

    Raises:
        ValueError: an argument that cannot work; during `learn`: a moment that no text reaches, or
            a divergence that is infinite for this target.
    """

    fixed = frozenset({"proposal"})
    divergence: Any = Setting(lambda x: x in DIVERGENCES, ", ".join(DIVERGENCES))
    baseline: Any = Setting(lambda x: isinstance(x, bool), "True or False")
    proposal_interval: Any = counting()
    batch_size: Any = counting(none=True)

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        require_batch(self.batch_size, self.n_episodes)
        _check_divergence(self.divergence, self.accept)
        if name == "reference" and getattr(self, "_sampler", None) is not None:
            self._sample_from_reference()

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any,
        beta: float | None = None,
        accept: float | None = None,
        moments: dict[str, float] | None = None,
        divergence: str = "kl",
        baseline: bool = True,
        proposal: str = "policy",
        proposal_interval: int = 10,
        learning_rate: float | Schedule = 3e-4,
        n_episodes: int = 256,
        group_size: int = 1,
        batch_size: int | None = None,
        fit_episodes: int | None = None,
        multipliers: dict[str, float] | None = None,
        **kwargs: Unpack[ReferenceArguments],
    ) -> None:
        target = make_target(beta, accept, moments, multipliers)
        require("divergence", divergence, divergence in DIVERGENCES, ", ".join(DIVERGENCES))
        require("proposal", proposal, proposal in PROPOSALS, ", ".join(PROPOSALS))
        require_whole("proposal_interval", proposal_interval)
        if fit_episodes is not None:
            require_whole("fit_episodes", fit_episodes)
        require_batch(batch_size, n_episodes)
        _check_divergence(divergence, accept)
        self.divergence, self.baseline, self.batch_size = divergence, baseline, batch_size
        self.proposal, self.proposal_interval = proposal, proposal_interval
        super().__init__(
            policy,
            env,
            learning_rate,
            n_episodes,
            target=target,
            group_size=group_size,
            fit_episodes=fit_episodes,
            **kwargs,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        # A copy of the whole policy: as a behaviour it needs caches and random numbers alike. Under
        # adapters both have one base.
        self._sampler = None
        if self.proposal != "policy":
            self._sampler = shared_copy(self.policy)
        self._sample_from_reference()

    def _sample_from_reference(self) -> None:
        if self.proposal == "reference":
            assert self._sampler is not None and self.reference is not None
            self._sampler.actor = self.reference
            # Its values are not used, and the old head may have the width of another model.
            width = self.reference.hidden_size
            self._sampler.value_net = nn.Linear(width, 1, device=self.device)

    @property
    def behaviour(self) -> CausalLMPolicy:
        """The proposal q."""
        if self._sampler is None:
            return self.policy
        self._sampler.actor.adopt(self.policy.actor)
        return self._sampler

    def own_state(self) -> dict[str, Any]:
        """Return what is saved beside weights and arguments, an adaptive proposal included."""
        adaptive = self._sampler if self.proposal == "adaptive" else None
        sampler = None if adaptive is None else own_state(adaptive)
        return {**super().own_state(), "sampler": sampler}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Take over what `own_state` returned."""
        super().set_own_state(state)
        if self._sampler is not None and state["sampler"] is not None:
            load_own_state(self._sampler, state["sampler"])

    _sampler: CausalLMPolicy | None

    @property
    def _kind(self) -> dict[str, Any]:
        return {"divergence": self.divergence, "baseline": self.baseline}

    # -- training ------------------------------------------------------------------------------

    def train(self) -> None:
        """Update the policy from `self.rollout`."""
        assert self.rollout is not None
        rollout = self.rollout
        log_p, log_q, log_z = self.log_target(rollout)
        # In units of each start's own Z: one that is paid more must not seem to be all there is.
        log_w = torch.where(log_z.isfinite(), log_p - log_q - log_z, -torch.inf)
        self.coverage.look_at(log_w, log_z)
        log_pi = self._update_policy(rollout, log_p, log_q, log_z)
        self.logger.record("target/ess", effective_sample_size(log_w))
        self._record(rollout, log_p, log_q, log_pi, log_z)

    def _update_policy(
        self, rollout: Rollout, log_p: Tensor, log_q: Tensor, log_z: Tensor
    ) -> Tensor:
        """Make one pass over the roll-out; return log pi `(B,)` as it was when it was used."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        stats: dict[str, list[Tensor]] = defaultdict(list)
        seen = torch.zeros_like(log_p)
        length = rollout.lengths.float().mean()
        for index in rollout.minibatches(self.batch_size or len(rollout)):
            minibatch, facts = rollout.select(index), (log_p[index], log_q[index], log_z[index])
            log_pi, weights = torch.zeros_like(log_p[index]), None
            # Texts may be weighed by each other's probabilities, which a part does not have.
            coupled = self.baseline and self.divergence != "kl"
            if coupled and self.parts_of(minibatch) is not None:
                now = score(self.policy.actor, minibatch, self.micro_batch_size)
                weights = weights_where_known(*facts, now.double().sum(dim=1), **self._kind)
            loss = partial(self._loss, facts=facts, weights=weights, length=length, seen=log_pi)
            for name, value in self.descend(minibatch, loss).items():
                stats["dpg_loss" if name == "loss" else name].append(value)
            seen[index] = log_pi
        self._n_updates += 1
        for name, values in stats.items():
            self.logger.record(f"train/{name}", torch.stack(values).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        return seen

    def _loss(
        self,
        share: Part[Rollout],
        facts: tuple[Tensor, Tensor, Tensor],
        weights: Tensor | None,
        length: Tensor,
        seen: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a part of a minibatch of B texts, as a share of its mean.

        Args:
            share: the part.
            facts: log P, log q and log Z of the minibatch, `(B,)` each.
            weights: `(B,)` of the minibatch, if they are known already.
            length: mean length of the roll-out's texts, `()`.
            seen: `(B,)`, where log pi of the part is written to.
        """
        part, at = share.batch, share.index
        log_probs, _, _ = self.policy.evaluate_episodes(
            part.tokens, part.columns, part.actions, part.mask
        )
        log_pi = log_probs.double().sum(dim=1)  # (b,)
        seen[at] = log_pi.detach()
        if weights is None:
            log_p, log_q, log_z = (fact[at] for fact in facts)
            chosen = weights_where_known(log_p, log_q, log_z, log_pi, **self._kind)
        else:
            chosen = weights[at]
        # In units of the mean length, so that the norm of the gradient is one of a token.
        return -(chosen * log_pi).sum() / (len(share.whole) * length), {}

    def _record(
        self, rollout: Rollout, log_p: Tensor, log_q: Tensor, log_pi: Tensor, log_z: Tensor
    ) -> None:
        """Record how near policy and proposal are to the target, and adapt the proposal."""
        known = log_z.isfinite()
        covered = log_p.isfinite().double().mean().item()
        self.logger.record("target/coverage", covered)
        for name, weight in (self.multipliers or {}).items():
            self.logger.record(f"target/multiplier_{name}", weight)
        if isinstance(self.target, MomentTarget):
            features = self.target.features(rollout).mean(dim=0)
            for name, mean in zip(self.target.moments, features.tolist(), strict=True):
                self.logger.record(f"target/moment_{name}", mean)
        if not bool(known.any()):
            return
        p, q, pi, z = (x[known] for x in (log_p, log_q, log_pi, log_z))
        kl_pi, kl_q = kl_to_target(p, q, pi, z).item(), kl_to_target(p, q, q, z).item()
        self.logger.record("target/log_z", z.mean().item())
        self.logger.record("target/kl_p_pi", kl_pi)
        self.logger.record("target/kl_p_q", kl_q)
        self.logger.record("target/tvd", total_variation(p, q, pi, z).item())
        if self.proposal == "adaptive" and self._n_updates % self.proposal_interval == 0:
            if kl_pi < kl_q and self._sampler is not None:
                load_own_state(self._sampler, own_state(self.policy))


def _check_divergence(divergence: str, accept: float | None) -> None:
    excludes = accept is not None and divergence in ("reverse_kl", "reverse_chi2")
    accepted = "'kl', 'tv', 'js' or 'chi2' with accept, which excludes texts: it is infinite"
    require("divergence", divergence, not excludes, accepted)
