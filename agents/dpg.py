r"""Distributional policy gradients: make a language model sample from a target distribution.

**Idea.** Instead of maximising a reward, say which distribution over texts is wanted, as a factor
on the model one starts from: texts that pass a filter, texts weighted by $e^{r/\beta}$, or texts
whose features have given means (generation with distributional control, Khalifa et al., 2021). Then
minimise a divergence between that target and the policy. There is nothing to collapse to: the
target keeps the diversity that the constraint leaves it.

**Equations**, each with the function that computes it (`agents.functional_dpg`, `agents.targets`):

- $P(x) = \pi_0(x) e^{u(x)}$, $u = r / \beta$: `RewardTarget`; 0 or $-\infty$: `FilterTarget`;
  $\lambda \cdot \phi$: `MomentTarget`
- $\lambda \leftarrow \lambda + \eta\,C^{-1} (\mu - \sum w \phi / \sum w)$ with
  $w = (\pi_0/q) e^{\lambda\phi}$, for each start its own $\sum w$: `fit_multipliers`
- $Z = E_q[P/q]$, for each start $c$ its own $Z(c)$: `log_normaliser`, averaged over iterations by
  `agents.normalisers`
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

import copy
import json
import os
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from agents.base import EpisodicAlgorithm
from agents.checks import require, require_batch, require_whole
from agents.functional_dpg import (
    DIVERGENCES,
    dpg_weights,
    effective_sample_size,
    kl_to_target,
    total_variation,
)
from agents.group_rollouts import collect_groups
from agents.normalisers import (
    CoverageWarnings,
    Normalisers,
    start_keys,
    warn_about_one_normaliser,
)
from agents.policies import CausalLMPolicy
from agents.rollouts import Rollout, collect_episodes, score
from agents.target_facts import target_facts, weights_digest
from agents.targets import FilterTarget, MomentTarget, RewardTarget, make_target

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DPG"]

PROPOSALS = ("policy", "adaptive", "reference")


class DPG(EpisodicAlgorithm):
    """Distributional policy gradients; see the module's card for equations and symbols.

    ```python
    agent = DPG("CausalLMPolicy", "text_envs/Reviews-v0", beta=0.1, group_size=32)
    agent.learn(100_000, progress_bar=True)
    ```

    Exactly one of `beta`, `accept` and `moments` says what the target is; or the last two, for
    moments among the texts that pass.

    Args:
        policy: `"CausalLMPolicy"` or a subclass of it.
        env: an environment id, a Gymnasium environment, a `TokenVectorEnv` or a `VecEnv`.
        beta: the target is `pi0 exp(r / beta)`.
        accept: the target is the reference, given a reward of at least this.
        moments: the target is nearest to the reference with these means of the ledger's terms.
        divergence: what is minimised, see the card.
        baseline: subtract the mean from the weights.
        proposal: "policy" samples from what is trained, "adaptive" from the best policy so far,
            "reference" from the reference, which is `reference` if that is given.
        proposal_interval: iterations between two looks at an adaptive proposal.
        learning_rate: a number, or a function of the remaining progress.
        n_episodes: episodes an iteration, a multiple of the number of environments.
        group_size: texts of each start, with a normaliser for each; 1 for one normaliser over
            all starts, right where there is one start.
        batch_size: sequences a minibatch; None for the whole roll-out.
        fit_episodes: texts from which multipliers are fitted; None for four roll-outs.
        multipliers: of the moments, if they are known; None to fit them.
        max_grad_norm: gradients are scaled down to this norm.
        reference: a model, see `load_lm`; None for the initial policy.
        num_envs: environments to make if `env` is an id.
        stats_window_size: episodes that `rollout/ep_*_mean` average over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: arguments of the policy, see `policy_kwargs_for`; by default its model is the
            bundled one where the environment has its words, else a small untrained one.
        verbose: 1 prints the metrics.
        seed: of torch, numpy, Python and the environments.
        device: "auto", "cpu", "cuda".

    Raises:
        ValueError: an argument that cannot work; during `learn`: a moment that no text reaches, or
            a divergence that is infinite for this target.
    """

    needs_reference = True

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
        max_grad_norm: float = 1.0,
        reference: Any = None,
        num_envs: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | os.PathLike[str] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.target = make_target(beta, accept, moments, multipliers)
        require("divergence", divergence, divergence in DIVERGENCES, ", ".join(DIVERGENCES))
        require("proposal", proposal, proposal in PROPOSALS, ", ".join(PROPOSALS))
        require_whole("proposal_interval", proposal_interval)
        require("max_grad_norm", max_grad_norm, lambda x: x > 0, "above 0")
        if fit_episodes is not None:
            require_whole("fit_episodes", fit_episodes)
        require_batch(batch_size, n_episodes)
        excludes = accept is not None and divergence in ("reverse_kl", "reverse_chi2")
        accepted = "'kl', 'tv', 'js' or 'chi2' with accept, which excludes texts: it is infinite"
        require("divergence", divergence, not excludes, accepted)
        # Of which target the multipliers are; None for those that were given.
        self._fitted_for: str | None = None
        self.divergence, self.baseline, self.batch_size = divergence, baseline, batch_size
        self.proposal, self.proposal_interval = proposal, proposal_interval
        self.fit_episodes = fit_episodes
        self.normalisers, self.coverage = Normalisers(group_size), CoverageWarnings(group_size)
        super().__init__(
            policy,
            env,
            n_episodes=n_episodes,
            num_envs=num_envs,
            group_size=group_size,
            reference=reference,
            policy_kwargs=policy_kwargs,
            learning_rate=learning_rate,
            gamma=1.0,
            gae_lambda=1.0,
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=None if tensorboard_log is None else os.fspath(tensorboard_log),
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Discrete,),
            _init_setup_model=_init_setup_model,
        )

    # Read-only, because the target was made of them; saved like any argument.
    @property
    def beta(self) -> float | None:
        """The temperature of the target, if it is one of rewards."""
        return self.target.beta if isinstance(self.target, RewardTarget) else None

    @property
    def accept(self) -> float | None:
        """The bar of the target, if it has one."""
        found = self.target.within if isinstance(self.target, MomentTarget) else self.target
        return found.accept if isinstance(found, FilterTarget) else None

    @property
    def moments(self) -> dict[str, float] | None:
        """The wanted means, if the target has any."""
        return dict(self.target.moments) if isinstance(self.target, MomentTarget) else None

    @property
    def multipliers(self) -> dict[str, float] | None:
        """The multipliers of the moments once they are fitted, else None."""
        found = self.target.multipliers if isinstance(self.target, MomentTarget) else None
        return found or None

    def _setup_model(self) -> None:
        super()._setup_model()
        # A copy of the whole policy: as a behaviour it needs caches and random numbers alike.
        self._sampler: CausalLMPolicy | None = None
        if self.proposal != "policy":
            self._sampler = copy.deepcopy(self.policy)
        if self.proposal == "reference":
            assert self._sampler is not None and self.reference is not None
            self._sampler.actor = self.reference
            # Its values are not used, and the old head may have the width of another model.
            width = self.reference.hidden_size
            self._sampler.value_net = nn.Linear(width, 1, device=self.device)
        warn_about_one_normaliser(self.env, self.group_size)

    @property
    def behaviour(self) -> CausalLMPolicy:
        """The proposal q."""
        return self.policy if self._sampler is None else self._sampler

    @classmethod
    def load(  # type: ignore[override]
        cls, path: Any, env: Any = None, device: torch.device | str = "auto", **kwargs: Any
    ) -> Self:
        """Return a saved algorithm, see `TextAlgorithm.load`.

        Multipliers that were fitted to another target, and its normalisers, are not kept. What an
        environment pays is known by its reward model's name only: for other rewards of the same
        name, give `multipliers=None`, and go on with `reset_num_timesteps=True`, which forgets
        normalisers too.
        """
        if kwargs.keys() & {"moments", "accept"}:
            kwargs.setdefault("multipliers", None)
        return super().load(path, env, device, **kwargs)

    @cached_property
    def _reference_digest(self) -> int:
        """Computed by the first update: who only predicts need not read all weights."""
        return weights_digest(self.reference)

    def _target_facts(self) -> str:
        """Return what tells this target from another one, but for the multipliers."""
        given = [self.beta, self.accept, self.moments, self.group_size, self._reference_digest]
        return target_facts(given, self.env)

    def start_anew(self) -> None:
        """Forget the normalisers too."""
        self.normalisers.forget()
        super().start_anew()

    def own_state(self) -> dict[str, Any]:
        """Return what is saved beside weights and arguments: normalisers and proposal."""
        sampler = None
        if self._sampler is not None and self.proposal == "adaptive":
            sampler = dict(self._sampler.state_dict())
        return {
            "normalisers": self.normalisers.state(),
            "sampler": sampler,
            "warned": sorted(self.coverage.said),
            "fitted": [self.multipliers, self._fitted_for],
        }

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Take over what `own_state` returned."""
        self.normalisers.set_state(state["normalisers"])
        self.coverage.said = set(state["warned"])
        multipliers, fitted_for = state["fitted"]
        self._fitted_for = fitted_for if multipliers == self.multipliers else None
        if self._sampler is not None and state["sampler"] is not None:
            self._sampler.load_state_dict(state["sampler"])

    # -- training ------------------------------------------------------------------------------

    def train(self) -> None:
        """Update the policy from `self.rollout`."""
        assert self.rollout is not None and self.rollout.ref_log_probs is not None
        rollout, ref_log_probs = self.rollout, self.rollout.ref_log_probs
        facts = self._target_facts()
        if isinstance(self.target, MomentTarget) and (
            not self.target.multipliers or self._fitted_for not in (None, facts)
        ):
            self._fit(self.target)
            self._fitted_for = facts
        log_q = rollout.log_probs.double().sum(dim=1)  # (B,), padded places are 0
        log_p = ref_log_probs.double().sum(dim=1) + self.target.log_potential(rollout)
        log_z = self.normalisers.update(
            rollout, log_p, log_q, f"{facts} {json.dumps(self.multipliers)}"
        )
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
            longest = int(rollout.lengths[index].max())
            log_probs, _, _ = self.policy.evaluate_episodes(
                rollout.tokens[index],
                rollout.columns[index, :longest],
                rollout.actions[index, :longest],
                rollout.mask[index, :longest],
            )
            log_pi = log_probs.double().sum(dim=1)
            seen[index] = log_pi.detach()
            # A start of whose texts none is in the support says nothing about its normaliser.
            known = log_z[index].isfinite()
            weights = torch.zeros_like(log_pi)
            if bool(known.any()):
                weights[known] = dpg_weights(
                    log_p[index][known],
                    log_q[index][known],
                    log_pi[known],
                    log_z[index][known],
                    divergence=self.divergence,
                    baseline=self.baseline,
                )
            # In units of the mean length, so that the norm of the gradient is one of a token.
            loss = -(weights * log_pi).mean() / length
            self.policy.optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            stats["dpg_loss"].append(loss.detach())
            stats["grad_norm"].append(norm)
        self._n_updates += 1
        for name, values in stats.items():
            self.logger.record(f"train/{name}", torch.stack(values).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        return seen

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
                self._sampler.load_state_dict(self.policy.state_dict())

    def _fit(self, target: MomentTarget) -> None:
        """Fit the multipliers from fresh texts of the proposal."""
        assert self.env is not None and self.reference is not None
        wanted = self.fit_episodes or 4 * self.n_episodes
        count = -(-wanted // self.env.num_envs) * self.env.num_envs
        self.policy.set_training_mode(False)
        groups = None
        if self.group_size == 1:
            obs: Any = self.env.reset()
            rollout = collect_episodes(self.behaviour, self.env, count, obs).rollout
        else:
            rollout = collect_groups(self.behaviour, self.env, count, self.group_size).rollout
            starts = np.unique(start_keys(rollout, self.group_size), return_inverse=True)[1]
            groups = torch.from_numpy(starts.repeat(self.group_size)).to(self.device)
        rollout = rollout.to(self.device)
        self._last_obs = self.env.reset()  # type: ignore[assignment]
        rollout.ref_log_probs = score(self.reference, rollout)
        target.fit(rollout, groups)
