r"""Distributions over texts to aim at: the reference times a factor, $P(x) = \pi_0(x) e^{u(x)}$.

| target | $u(x)$ | what p is |
|---|---|---|
| `RewardTarget` | $r(x) / \beta$ | the optimum of $E[r] - \beta\,KL(\pi \| \pi_0)$ |
| `FilterTarget` | 0, or $-\infty$ where $r(x)$ is below a bar | the reference if it passes |
| `MomentTarget` | $\lambda \cdot \phi(x)$ | nearest to the reference with $E_p \phi = \mu$ |
| `MomentTarget` with `within` | both, added | nearest to the reference that passes |

All read the rewards of finished episodes, so any reward model of an environment can be a target:
the ledger's terms are the features $\phi$ of a `MomentTarget`, `"reward"` is their sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Protocol

import torch
from torch import Tensor

from agents.common.checks import require
from agents.losses.distributional import fit_multipliers, moment_range
from agents.rollouts.rollout import Rollout
from text_envs.episodes.errors import suggest

__all__ = ["FilterTarget", "MomentTarget", "RewardTarget", "Target", "make_target"]

# Of a bar, how far below it float32 may put a text that earns just that.
_ROUNDING = 1e-6


class Target(Protocol):
    """A factor on the reference."""

    def log_potential(self, rollout: Rollout) -> Tensor:
        """Return $u$ of each episode, `(B,)` float64; minus infinity excludes a text."""
        ...


@dataclass(frozen=True)
class RewardTarget:
    """The KL-regularised optimum of the environment's reward.

    Attributes:
        beta: temperature, above 0.
    """

    beta: float

    def __post_init__(self) -> None:
        """Check the temperature.

        Raises:
            ValueError: it is not above 0 and finite: there is no posterior then.
        """
        if not 0 < self.beta < math.inf:
            raise ValueError(
                f"beta must be above 0 and finite, got {self.beta!r}: p ~ pi0 exp(r / beta) is a "
                "distribution only then; the limit beta -> 0 is a filter on the best texts"
            )

    def log_potential(self, rollout: Rollout) -> Tensor:
        r"""Return $r / \beta$, `(B,)`."""
        return rollout.episode_rewards.double() / self.beta


@dataclass(frozen=True)
class FilterTarget:
    """The reference, given that the reward is at least `accept`."""

    accept: float

    def __post_init__(self) -> None:
        """Check the bar.

        Raises:
            ValueError: it is not a finite number, so that every text passes or none.
        """
        if not math.isfinite(self.accept):
            raise ValueError(f"accept must be a finite reward, got {self.accept!r}")

    def log_potential(self, rollout: Rollout) -> Tensor:
        """Return 0 for texts that pass and minus infinity for the others, `(B,)`."""
        bar = self.accept - _ROUNDING * max(1.0, abs(self.accept))
        passes = rollout.episode_rewards.double() >= bar
        return torch.where(passes, 0.0, -torch.inf).double()


@dataclass
class MomentTarget:
    """The distribution nearest to the reference whose features have given means.

    Attributes:
        moments: wanted mean of each named term of the ledger, or of `"reward"`, their sum.
        multipliers: one a moment; empty until `fit`.
        within: only texts that pass have support at all; None for all texts.
    """

    moments: Mapping[str, float]
    multipliers: dict[str, float] = field(default_factory=dict)
    within: FilterTarget | None = None

    def __post_init__(self) -> None:
        """Check names and numbers.

        Raises:
            ValueError: no moment, one that is not finite, or multipliers of other terms.
        """
        if not self.moments:
            raise ValueError("moments must name a term of the ledger, or 'reward'; got none")
        if self.multipliers and set(self.multipliers) != set(self.moments):
            raise ValueError(
                f"multipliers {sorted(self.multipliers)} do not fit moments {dict(self.moments)}"
            )
        for kind, numbers in (("moment", self.moments), ("multiplier", self.multipliers)):
            for name, number in numbers.items():
                if not math.isfinite(number):
                    raise ValueError(f"{kind} {name!r} must be finite, got {number!r}")

    def features(self, rollout: Rollout) -> Tensor:
        r"""Return $\phi$, `(B, K)`.

        Raises:
            ValueError: a term that the environment's ledger does not have.
        """
        terms = {"reward": rollout.episode_rewards, **rollout.reward_terms}
        for name in self.moments:
            if name not in terms:
                raise ValueError(
                    f"no reward term {name!r} to constrain.{suggest(name, terms)} Accepted: "
                    f"{', '.join(terms)}"
                )
        return torch.stack([terms[name].double() for name in self.moments], dim=1)

    def fit(self, rollout: Rollout, groups: Tensor | None = None) -> None:
        """Find the multipliers from episodes scored under the reference.

        Args:
            rollout: the B episodes.
            groups: `(B,)` int64 number of each episode's start, see `fit_multipliers`.

        Raises:
            ValueError: a moment that the episodes do not reach, with its name and the numbers.
        """
        assert rollout.ref_log_probs is not None
        features = self.features(rollout)
        log_w = (rollout.ref_log_probs - rollout.log_probs).double().sum(dim=1)
        if self.within is not None:
            passes = self.within.log_potential(rollout).isfinite()
            if not bool(passes.any()):
                raise ValueError(
                    f"none of {len(features)} texts of the proposal has a reward of accept="
                    f"{self.within.accept:g}; the highest is "
                    f"{rollout.episode_rewards.max().item():g}. Sample more with fit_episodes=..., "
                    "or lower the bar"
                )
            features, log_w = features[passes], log_w[passes]
            if groups is not None:
                groups = groups[passes].unique(return_inverse=True)[1]
        bounds = zip(*(bound.tolist() for bound in moment_range(features, groups)), strict=True)
        means = features.mean(dim=0).tolist()
        for (name, wanted), (low, high), mean in zip(
            self.moments.items(), bounds, means, strict=True
        ):
            if not low < wanted < high:
                raise ValueError(
                    f"moment {name!r} = {wanted:g} cannot be reached: in {len(features)} texts of "
                    f"the proposal it lies between {low:g} and {high:g}, mean {mean:g}"
                    f"{'' if groups is None else ', each start by itself'}. A constraint must "
                    "hold for some texts and fail for others; sample more with fit_episodes=..., "
                    "or ask for a moment strictly between"
                )
        wanted_moments = features.new_tensor(list(self.moments.values()))
        found = fit_multipliers(features, wanted_moments, log_w, groups)
        self.multipliers = dict(zip(self.moments, found.tolist(), strict=True))

    def log_potential(self, rollout: Rollout) -> Tensor:
        r"""Return $\lambda \cdot \phi$, `(B,)`; minus infinity for texts that do not pass."""
        features = self.features(rollout)
        weights = [self.multipliers[name] for name in self.moments]
        tilt = features @ torch.tensor(weights, dtype=torch.float64, device=features.device)
        return tilt if self.within is None else tilt + self.within.log_potential(rollout)


def make_target(
    beta: float | None = None,
    accept: float | None = None,
    moments: Mapping[str, float] | None = None,
    multipliers: Mapping[str, float] | None = None,
) -> Target:
    """Return the target that one of beta, accept and moments, or the last two, stand for.

    Raises:
        ValueError: none of them or several, or a value that is no target.
    """
    arguments = {"beta": beta, "accept": accept, "moments": moments}
    given = [name for name, value in arguments.items() if value is not None]
    if len(given) != 1 and given != ["accept", "moments"]:
        raise ValueError(
            "DPG needs exactly one of beta, accept and moments, or accept and moments, to know its "
            f"target, got {' and '.join(given) or 'none'}"
        )
    if multipliers is not None and moments is None:
        raise ValueError(f"multipliers {sorted(multipliers)} go with moments, got {given[0]}")
    if moments is not None and not isinstance(moments, Mapping):
        raise TypeError(f"moments must map terms to wanted means, got {moments!r}")
    for name, value in (("beta", beta), ("accept", accept)):
        require(name, value, lambda x: x is None or isinstance(x, Real), "a number")
    for kind, numbers in (("moments", moments), ("multipliers", multipliers)):
        for term, number in (numbers or {}).items():
            require(f"{kind}[{term!r}]", number, lambda x: isinstance(x, Real), "a number")
    if beta is not None:
        return RewardTarget(float(beta))
    within = None if accept is None else FilterTarget(float(accept))
    if within is not None and moments is None:
        return within
    wanted, known = (
        {term: float(number) for term, number in (numbers or {}).items()}
        for numbers in (moments, multipliers)
    )
    return MomentTarget(wanted, known, within)
