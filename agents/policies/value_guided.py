r"""Decoding a language model under the guidance of learned values.

$$\pi(a|s) \propto \tilde\pi_\beta(a|s)\, e^{\beta A(s, a)}, \qquad
A(s, a) = \min_i \bar Q_i(s, a) - V(s)$$

$\tilde\pi_\beta$ is the language model as it is sampled from (`text_envs.lm.sampling`). $V$ is the
same for every action, so it changes nothing unless the advantage is clipped; else its trunk is not
run. The language model, the target of $Q$ and the trunk of $V$ each have a cache of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from agents.common.checks import require, require_whole
from agents.common.settings import PolicySetting, is_number
from agents.losses.offline import guided_logits
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.optimisers import make_optimizer
from agents.policies.utterances import Plans
from agents.policies.value_networks import ValueTrunk, make_target
from agents.policies.vocabulary import highest_shown
from text_envs.episodes.errors import suggest
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.adapters import adopt_peft, is_peft
from text_envs.lm.checks import check_shown
from text_envs.lm.choosing import Seen
from text_envs.lm.likelihood import entropy, sample, token_log_probs
from text_envs.lm.loading import adapted, load_lm
from text_envs.lm.sharing import shared_copy
from text_envs.lm.transfers import download, last_columns, on_host, places_of, spread

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["VARIANTS", "ValueGuidedPolicy"]

VARIANTS = ("token", "utterance")

# Hidden states (n, d) of one set of observations under each of the models, computed once.
_States: TypeAlias = Callable[[ActionLM], Tensor]


class ValueGuidedPolicy(CausalLMPolicy):
    """A causal language model, a value trunk, and the target of the value trunk.

    It offers what `CausalLMPolicy` does, for the guided distribution: `predict`, `forward`, `act`,
    `get_distribution`, `evaluate_actions` and `evaluate_episodes` agree on it. `actor` alone is the
    behaviour policy.

    With `candidates` there is no distribution over tokens: `predict` samples whole utterances from
    the language model, writes the best one, and never asks for more until it is written.

    Attributes:
        beta: strength of the guidance; may be changed at any time, as may `advantage_clip`,
            `candidates`, `max_turn_tokens`, `log_prob_weight` and how the language model is
            sampled from (`temperature`, `top_k`, ...). 0 is the language model alone.
        critic: the trunk being trained, V, Q1, Q2.
        target: its slow copy, whose Q guides.

    Args:
        observation_space: as in `CausalLMPolicy`.
        action_space: as in `CausalLMPolicy`.
        lr_schedule: as in `CausalLMPolicy`.
        variant: what Q is of: "token", every next token; "utterance", a whole utterance.
        value_model: the value trunk's language model, see `load_lm`, for example a smaller one, or
            in `policy_kwargs` "scratch" or the sizes of an untrained one; None for a copy of the
            policy's. With adapters (`lora`), the trunk and its target have their own, on one base;
            which is the policy's where this is None.
        beta: strength of the guidance; unused with `candidates`, where Q chooses whole utterances.
        advantage_clip: keep the advantage within plus or minus this; None for no clip.
        candidates: choose the best of so many sampled utterances; None to guide token by token
            ("token") or for 4 ("utterance").
        log_prob_weight: weight of an utterance's log-probability beside its value, where Q is of
            tokens.
        max_turn_tokens: after which a turn ends by itself; None for no such limit.
        train_policy: False keeps the language model as it is.
        v_head: False for a critic that learns Q alone; V(s) is then the maximum of Q(s, .).
        **kwargs: further arguments of `CausalLMPolicy`.

    Raises:
        ValueError: an argument that cannot work, with what is accepted.
    """

    fixed = frozenset({"variant", "value_model", "train_policy", "v_head"})
    beta: Any = PolicySetting(lambda x: is_number(x) and x >= 0, "at least 0")
    advantage_clip: Any = PolicySetting(lambda x: x is None or x > 0, "None or above 0")
    log_prob_weight: Any = PolicySetting(lambda x: is_number(x) and x >= 0, "at least 0 and finite")
    max_turn_tokens: Any = PolicySetting(
        lambda x: x is None or (is_number(x) and x >= 1), "None or an integer above 0"
    )
    candidates: Any = PolicySetting(
        lambda x: x is None or (type(x) is int and x >= 1), "None or an integer of at least 1"
    )

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        variant: str = "token",
        value_model: str | os.PathLike[str] | PreTrainedModel | None = None,
        beta: float = 16.0,
        advantage_clip: float | None = None,
        candidates: int | None = None,
        log_prob_weight: float = 0.0,
        max_turn_tokens: int | None = None,
        train_policy: bool = False,
        v_head: bool = True,
        **kwargs: Any,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r}.{suggest(str(variant), VARIANTS)}")
        if candidates is not None:
            require_whole("candidates", candidates)
        if isinstance(given := kwargs.get("model"), nn.Module) and not train_policy:
            given = adopt_peft(given) if is_peft(given) else given
            kwargs["model"] = shared_copy(given)  # frozen here, and not where it comes from
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.value_net = cast(Any, nn.Identity())  # the parent's head; V is the critic's
        if candidates is None and variant == "utterance":
            candidates = 4
        self.arguments |= {
            "variant": variant,
            "value_model": value_model,
            "train_policy": train_policy,
            "v_head": v_head,
        }
        self.beta = beta
        self.advantage_clip, self.log_prob_weight = advantage_clip, log_prob_weight
        self.variant, self.v_head, self.max_turn_tokens = variant, v_head, max_turn_tokens
        self.candidates, self.plans = candidates, None
        if value_model is None:
            trunk = shared_copy(self.actor)
        else:
            trunk = self.actor.like(self._load_value_model(value_model))
            trunk.check_length(observation_space.shape[0])  # type: ignore[index]
            check_shown(trunk.lm, highest_shown(observation_space, self.actor.pad_id))
        outputs = self.actor.num_actions if variant == "token" else 1
        self.critic = ValueTrunk(trunk, outputs)
        self.target = make_target(self.critic)
        if not train_policy:
            self.actor.requires_grad_(False)
        learning = [*self.actor.parameters(), *self.critic.trained_parameters()]
        trained, arguments = [p for p in learning if p.requires_grad], self.optimizer_kwargs
        self.optimizer = make_optimizer(self.optimizer_class, trained, lr_schedule(1), arguments)
        self.gradient_checkpointing = self.gradient_checkpointing  # of the trunks as well
        self.changed("candidates")

    def _load_value_model(self, model: Any) -> PreTrainedModel:
        """Return the trunk's own language model, with adapters where the policy's got new ones."""
        named, lora = not isinstance(model, nn.Module), self.arguments["lora"]
        dtype = self.arguments["dtype"] if named else None
        lm = load_lm(model, dtype=dtype)[0]
        lm = lm if named else shared_copy(lm)
        return lm if lora is None else adapted(lm, lora, model)

    plans: Plans | None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: everything, and plans if these are still valid."""
        if self.plans is not None and self.plans.made_by != Plans.mark(self):
            self.plans.forget()
        return vars(self).copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a copy's state; its weights lie elsewhere, and the plans are theirs."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self.plans is not None:
            self.plans.made_by = Plans.mark(self)

    def changed(self, name: str) -> None:
        """Drop the plans, which were made with the old value."""
        if self.variant == "utterance":
            require("candidates", self.candidates, self.candidates is not None, "an integer here")
        self.plans = None if self.candidates is None else Plans(self.candidates)

    @property
    def further_models(self) -> dict[str, PreTrainedModel]:
        """The value trunk's language model, where it is not a copy of the actor's."""
        own = self.arguments["value_model"] is not None
        return {"value_model": self.critic.actor.lm} if own else {}

    def set_training_mode(self, mode: bool) -> None:
        """Set the mode; training makes plans obsolete."""
        if mode != self.training:  # `predict` asks each time, and there are many modules to walk
            super().set_training_mode(mode)
        if mode and self.plans is not None:
            self.plans.forget()

    def start_values_at(self, value: float) -> None:
        """Make V, Q and their target the constant `value`, for example the mean return."""
        self.critic.start_at(value)
        self.target.start_at(value)

    # -- one step ------------------------------------------------------------------------------

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions `(n,)`, values `(n, 1)` and log-probabilities `(n,)`."""
        states = self._states_of(obs)
        actions, log_probs = self._choose(self._guided(states, self._seen(obs)), deterministic)
        return actions, self._value(states)[:, None], log_probs

    def act(
        self, obs: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Sample the next token of some rows; see `CausalLMPolicy.act`.

        With `candidates`, the values are those of the utterances being written, and the
        log-probabilities, which nobody knows, are NaN.

        Raises:
            FloatingPointError: a model returns numbers that are not finite.
        """
        if self.plans is not None:
            actions, values = self.plans.next_tokens(self, obs)
            last = obs.shape[1] - 1 - (obs != self.actor.pad_id)[:, ::-1].argmax(axis=1)
            return actions, values, np.full(len(obs), np.nan, dtype=np.float32), last
        with torch.inference_mode():
            hidden, columns = self.actor.decode(obs, rows)
            known = {self.actor: hidden}
            states = cache(lambda lm: known[lm] if lm in known else lm.decode(obs, rows)[0])
            chosen, log_probs = sample(self._guided(states, self.actor.seen(obs)))
            tokens, values, scores = download(chosen, self._value(states), log_probs)
        if not (np.isfinite(values).all() and np.isfinite(scores).all()):
            raise FloatingPointError(
                "scores or values are not finite: training has diverged. Lower the learning rate"
            )
        return tokens, values, scores, columns

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return V(s) `(n, 1)`."""
        return self._value(self._states_of(cast(Tensor, obs)))[:, None]

    def get_distribution(self, obs: PyTorchObs) -> CategoricalDistribution:
        """Return the guided distribution over the next token, `(n, num_actions)`."""
        tokens = cast(Tensor, obs)
        logits = self._guided(self._states_of(tokens), self._seen(tokens))
        distribution = CategoricalDistribution(self.actor.num_actions)
        return distribution.proba_distribution(logits)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Return actions `(n,)`; candidates are sampled, `deterministic` or not."""
        if self.plans is not None:
            (tokens,) = on_host(cast(Tensor, observation).long())
            actions, _ = self.plans.next_tokens(self, tokens)
            return torch.from_numpy(actions)
        obs = cast(Tensor, observation)
        logits = self._guided(self._states_of(obs), self._seen(obs))
        return self._choose(logits, deterministic)[0]

    # -- with gradients ------------------------------------------------------------------------

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values `(n, 1)`, log-probabilities and entropies `(n,)`; encodes every row."""
        states = self._encoded(cast(Tensor, obs).long())
        logits = self._guided(states, self._seen(cast(Tensor, obs)))
        log_probs = token_log_probs(logits, actions.long())
        return self._value(states)[:, None], log_probs, entropy(logits)

    def evaluate_episodes(
        self,
        tokens: Tensor,
        columns: Tensor,
        actions: Tensor,
        mask: Tensor,
        *,
        with_entropy: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Score whole episodes under the guided distribution; see `CausalLMPolicy`."""
        states = cache(lambda lm: lm.encode(tokens, columns, mask))
        logits = self._guided(states, self.actor.seen(tokens, columns, mask))
        places = places_of(mask)  # (M,)
        log_probs = token_log_probs(logits, actions.flatten()[places])
        return (
            spread(log_probs, places, mask.shape),
            spread(self._value(states), places, mask.shape),
            spread(entropy(logits), places, mask.shape) if with_entropy else None,
        )

    # -- guidance ------------------------------------------------------------------------------

    def _states_of(self, obs: Tensor) -> _States:
        """Return the states after observations: cached without gradients, encoded with."""
        tokens = obs.long()
        if torch.is_grad_enabled():
            return self._encoded(tokens)
        (array,) = on_host(tokens)
        return cache(lambda lm: lm.decode(array)[0])

    def _encoded(self, tokens: Tensor) -> _States:
        shown = last_columns(self.actor, tokens)
        return cache(lambda lm: lm.encode(*shown))

    def _seen(self, obs: Tensor) -> Seen | None:
        return self.actor.seen(obs.long())

    def _guided(self, states: _States, seen: Seen | None) -> Tensor:
        """Return the scores `(n, A)` that tokens are sampled from."""
        if self.plans is not None:
            raise ValueError(
                f"a policy that chooses among candidates={self.plans.candidates} utterances has no "
                "distribution over tokens; use predict or act, or make it with candidates=None"
            )
        logits = self.actor.sampling_logits(states(self.actor), seen)
        if self.beta == 0:
            return logits
        q = self._q(states)
        if self.advantage_clip is not None:
            advantages = q - self._value(states)[:, None]
            q = advantages.clamp(-self.advantage_clip, self.advantage_clip)
        return guided_logits(logits, q, self.beta)

    def _q(self, states: _States) -> Tensor:
        """Return the smaller of the target's two Q, `(n, A)`."""
        return self.target.q_min(states(self.target.actor))

    def _value(self, states: _States) -> Tensor:
        """Return V(s) `(n,)`."""
        if self.v_head:
            return self.critic.v(states(self.critic.actor))
        return self.target.best_q(states(self.target.actor), self.allowed)

    @property
    def allowed(self) -> Tensor:
        """Which actions are ever written, bool `(A,)`."""
        allowed = torch.ones(self.actor.num_actions, dtype=torch.bool, device=self.device)
        allowed[self.arguments["forbidden"]] = False
        return allowed
