"""What an algorithm has that aims at a distribution: the target, its multipliers and normalisers.

A subclass writes `train` and asks for `log_target`.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from typing_extensions import Unpack

from agents.common.settings import counting
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollouts.episodes import Collected, collect_episodes, score
from agents.rollouts.groups import collect_groups
from agents.rollouts.rollout import Rollout
from agents.training.arguments import ReferenceArguments
from agents.training.normalisers import (
    CoverageWarnings,
    Normalisers,
    start_keys,
    warn_about_one_normaliser,
)
from agents.training.on_policy import EpisodicAlgorithm
from agents.training.target_facts import target_facts, weights_digest
from agents.training.targets import FilterTarget, MomentTarget, RewardTarget, Target

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TargetAlgorithm"]


class TargetAlgorithm(EpisodicAlgorithm):
    """An on-policy algorithm whose policy is to become a given distribution.

    Args:
        policy: `"CausalLMPolicy"` or a subclass of it.
        env: as in `EpisodicAlgorithm`.
        learning_rate: a number, or a function of the remaining progress.
        n_episodes: episodes an iteration.
        target: the distribution.
        group_size: texts of each start, with a normaliser for each.
        fit_episodes: texts from which multipliers are fitted; None for four roll-outs.
        **kwargs: see `agents.training.arguments.ReferenceArguments`.
    """

    needs_reference = True
    fixed = frozenset({"accept", "beta", "moments", "multipliers"})
    remedies: ClassVar[dict[str, str]] = {
        name: f"load(path, {name}=...), or another agent" for name in fixed
    }
    fit_episodes: Any = counting(none=True)

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        if name == "reference":
            vars(self).pop("_reference_digest", None)
        if name == "group_size":
            self.normalisers.group_size = self.coverage.group_size = self.group_size
            self.normalisers.forget()

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any,
        learning_rate: float | Schedule = 3e-4,
        n_episodes: int = 256,
        *,
        target: Target,
        group_size: int = 1,
        fit_episodes: int | None = None,
        **kwargs: Unpack[ReferenceArguments],
    ) -> None:
        self.target, self.fit_episodes = target, fit_episodes
        # Of which target the multipliers are; None for those that were given.
        self._fitted_for: str | None = None
        self.normalisers, self.coverage = Normalisers(group_size), CoverageWarnings(group_size)
        super().__init__(policy, env, learning_rate, n_episodes, group_size=group_size, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self._check_support()
        warn_about_one_normaliser(self.env, self.group_size)

    def _check_support(self) -> None:
        """Refuse a proposal that cannot write what the target wants.

        The reference adopts a repetition penalty and a least length, which are then part of the
        target; what top_k, top_p and min_p leave out differs between reference and policy.
        """
        sampling = self.policy.actor.sampling
        if sampling.truncates:
            raise ValueError(
                f"{type(self).__name__} needs a policy that may write whatever its target may "
                f"(q > 0 wherever P > 0), and {sampling!r} leaves tokens out: weights P / q and "
                "the normaliser Z would be wrong. Accepted: temperature, repetition_penalty and "
                "min_tokens, with top_k, top_p and min_p None; generate() and evaluate_texts() "
                "take these for texts that are only looked at"
            )

    def _play(self, *args: Any) -> Collected:
        self._check_support()  # settings may have changed since
        return super()._play(*args)

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
        """Return what is saved beside weights and arguments."""
        return {
            "normalisers": self.normalisers.state(),
            "warned": sorted(self.coverage.said),
            "fitted": [self.multipliers, self._fitted_for],
        }

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Take over what `own_state` returned."""
        self.normalisers.set_state(state["normalisers"])
        self.coverage.said = set(state["warned"])
        multipliers, fitted_for = state["fitted"]
        self._fitted_for = fitted_for if multipliers == self.multipliers else None

    def log_target(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Return log P, log q and log Z of the texts of a roll-out, `(B,)` each, P unnormalised.

        Multipliers that are not known yet, or are those of another target, are fitted first.
        """
        assert rollout.ref_log_probs is not None
        facts = self._target_facts()
        if isinstance(self.target, MomentTarget) and (
            not self.target.multipliers or self._fitted_for not in (None, facts)
        ):
            self._fit(self.target)
            self._fitted_for = facts
        log_q = rollout.log_probs.double().sum(dim=1)  # (B,), padded places are 0
        log_p = rollout.ref_log_probs.double().sum(dim=1) + self.target.log_potential(rollout)
        log_z = self.normalisers.update(
            rollout, log_p, log_q, f"{facts} {json.dumps(self.multipliers)}"
        )
        return log_p, log_q, log_z

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
        rollout.ref_log_probs = score(self.reference, rollout, self.micro_batch_size)
        target.fit(rollout, groups)
