"""What ILQL, token CQL and Monte-Carlo values share: one forward pass a trunk, one update.

A subclass writes `losses`, from what `states_of` read in a single pass.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from typing_extensions import Unpack

from agents.common.checks import require
from agents.common.settings import Setting
from agents.data.batches import OfflineBatch
from agents.losses.on_policy import masked_mean, returns_to_go
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.value_guided import ValueGuidedPolicy
from agents.policies.value_networks import polyak_update
from agents.training.arguments import RecordedArguments
from agents.training.offline import OfflineAlgorithm
from text_envs.lm.transfers import places_of, spread

__all__ = ["States", "ValueAlgorithm", "pad", "statistics"]


class States(NamedTuple):
    """What one pass of the trained trunk gives.

    Attributes:
        values: `(B, T + 1)` V(s_1) .. V(s_{n+1}); 0 where there is no state, and for the state
            that ends a terminated episode.
        acted: `(M, d)` hidden states of the M states in which the agent acted.
    """

    values: Tensor
    acted: Tensor


class ValueAlgorithm(OfflineAlgorithm):
    """An offline algorithm that trains the critic of a `ValueGuidedPolicy`.

    Args:
        policy: `"ValueGuidedPolicy"` or a subclass of it.
        gamma: discount factor of an agent token.
        polyak: how far the target moves after each optimiser step.
        beta: strength of the guidance when acting.
        policy_kwargs: arguments of `ValueGuidedPolicy`.
        fixed: arguments of the policy that the algorithm decides.
        **kwargs: arguments of `OfflineAlgorithm`.
    """

    policy: ValueGuidedPolicy
    gamma: Any = Setting(lambda x: 0 <= x <= 1, "in [0, 1]")
    polyak: Any = Setting(lambda x: 0 < x <= 1, "in (0, 1]")
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"ValueGuidedPolicy": ValueGuidedPolicy}

    def __init__(
        self,
        policy: str | type[CausalLMPolicy] = "ValueGuidedPolicy",
        env: Any = None,
        dataset: Any = None,
        learning_rate: float | Schedule = 3e-4,
        *,
        batch_size: int = 64,
        gamma: float = 0.99,
        polyak: float = 0.005,
        beta: float = 16.0,
        fixed: dict[str, Any] | None = None,
        **kwargs: Unpack[RecordedArguments],
    ) -> None:
        require("gamma", gamma, lambda x: 0 <= x <= 1, "in [0, 1]")
        require("polyak", polyak, lambda x: 0 < x <= 1, "in (0, 1]")
        self.gamma, self.polyak = gamma, polyak
        decided, policy_kwargs = (fixed or {}) | {"beta": beta}, kwargs.get("policy_kwargs") or {}
        if kwargs.get("_init_setup_model", True):  # a loaded agent is given what was saved
            for name in decided.keys() & policy_kwargs.keys():
                raise ValueError(
                    f"policy_kwargs[{name!r}] would be overridden: {type(self).__name__} decides "
                    f"it; accepted: the arguments of {type(self).__name__}"
                )
        kwargs["policy_kwargs"] = policy_kwargs | decided
        super().__init__(
            policy,
            env,
            dataset=dataset,
            learning_rate=learning_rate,
            batch_size=batch_size,
            **kwargs,
        )

    @property
    def beta(self) -> float:
        """Strength of the guidance when acting; may be set at any time."""
        return float(self.policy.beta)

    @beta.setter
    def beta(self, value: float) -> None:
        self.policy.beta = value

    def _setup_model(self) -> None:
        if self.env is not None:
            self.policy_kwargs.setdefault("max_turn_tokens", _turn_limit(self.env))
        super()._setup_model()
        if self.data is not None:
            # Near the mean of what is to be learned, the first targets are not noise.
            returns = returns_to_go(self.data.rewards, self.data.mask, self.gamma)
            self.policy.start_values_at(masked_mean(returns, self.data.mask).item())

    def train_step(self, batch: OfflineBatch) -> dict[str, Tensor]:
        """Take one step of the optimiser, then move the target."""
        metrics = self.descend(batch, lambda part: self.losses(part.batch, part.whole))
        polyak_update(self.policy.target, self.policy.critic, self.polyak)
        if "advantage_square" in metrics:  # which adds up, as a deviation does not
            variance = metrics.pop("advantage_square") - metrics["advantage_mean"].double() ** 2
            metrics["advantage_std"] = variance.clamp(min=0.0).sqrt().float()
        return metrics

    @abstractmethod
    def losses(
        self, batch: OfflineBatch, whole: OfflineBatch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a minibatch, and its parts and statistics for the log.

        Args:
            batch: the episodes.
            whole: the minibatch that they are a part of; the results are then shares of its means.
        """

    def states_of(self, batch: OfflineBatch) -> States:
        """Read V and the hidden states at all states, in one pass a sequence."""
        critic = self.policy.critic
        columns = batch.state_columns
        acted = torch.cat([batch.mask, torch.zeros_like(batch.mask[:, :1])], dim=1)  # (B, T + 1)
        # The final state only where it has a value of its own.
        needed = acted | (batch.state_mask & ~batch.terminated[:, None])
        hidden = critic.encode(batch.tokens, columns, needed)
        return States(pad(critic.v(hidden), needed), hidden[acted[needed]])


def pad(flat: Tensor, mask: Tensor) -> Tensor:
    """Return `flat` `(..., M)` at the M places of a mask, `(..., *mask.shape)`, 0 elsewhere."""
    return spread(flat, places_of(mask), mask.shape)


def statistics(
    q: Tensor, values: Tensor, targets: Tensor, mask: Tensor, count: Tensor | None = None
) -> dict[str, Tensor]:
    """Return what every one of these algorithms logs, over the real actions.

    Args:
        q: `(2, ...)` both heads.
        values: `(...)` V.
        targets: `(...)` what Q is to be.
        mask: bool `(...)`.
        count: see `masked_mean`.
    """
    with torch.no_grad():
        mean_q = q.mean(dim=0)
        return {
            "q_mean": masked_mean(mean_q, mask, count),
            "v_mean": masked_mean(values, mask, count),
            "td_error": masked_mean((mean_q - targets).abs(), mask, count),
            "target_mean": masked_mean(targets, mask, count),
        }


def _turn_limit(env: Any) -> int | None:
    """Return after how many tokens a turn ends by itself, or None."""
    try:
        return getattr(env.get_attr("task")[0], "max_turn_tokens", None)
    except AttributeError:
        return None
