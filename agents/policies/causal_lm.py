r"""Stable-Baselines3's actor-critic policy over a causal language model.

The observation is the text so far, the action the next token. One pass through the transformer
gives a hidden state $h_t$; the language model's own output layer turns it into
$\pi(a_t | s_t) = \mathrm{softmax}(z_t / \tau)_{a_t}$ and a small head into $V(s_t)$.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from agents.checkpoints.policies import load_policy, save_policy
from agents.common.settings import Guarded, PolicySetting, is_live
from agents.policies.checkpointing import Checkpointing
from agents.policies.optimisers import make_optimizer
from agents.policies.vocabulary import highest_shown
from text_envs.envs.spaces import TokenIdsWarning
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.checks import check_shown
from text_envs.lm.likelihood import sample, token_log_probs
from text_envs.lm.loading import load_lm
from text_envs.tokens.protocol import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CausalLMPolicy"]


class CausalLMPolicy(Guarded, ActorCriticPolicy):
    """An actor-critic policy whose actor is a causal language model.

    Usable by every actor-critic algorithm of Stable-Baselines3, and twice as an actor: step by
    step with cached decoding (`forward`, `predict`, `predict_values`, while gradients are off),
    and over whole episodes in one pass with gradients (`evaluate_episodes`). `evaluate_actions`
    encodes every observation anew, which is what stock algorithms ask for.

    Sampling draws one uniform number per row from torch's global generator, so `torch.manual_seed`
    fixes the text.

    Attributes:
        vocabulary: facts of the tokenizer it learns with, see
            `text_envs.tokens.vocabulary`, compared
            where the policy is used for a task; None where nobody told. Algorithms set it.

    Args:
        observation_space: flat `Box` of token ids, `(prompt_length + max_tokens,)`.
        action_space: `Discrete(num_actions)`.
        lr_schedule: learning rate as a function of the remaining progress.
        model: `"reviews"`, a folder, a Hub name, or a model of transformers.
        pad_id: marks empty columns of an observation.
        bos_id: starts a text whose prompt is empty.
        eos_id: ends a text; only used to avoid it where any other action would do.
        prompt_length: number of prompt columns.
        forbidden: ids that are never written.
        temperature: divides the scores; the sampled and the scored distribution are the same. It
            may be set afterwards, here or at `actor`, as may `detach_value`.
        value_hidden: widths of hidden layers of the value head; none for a linear one. Its output
            starts at 0 for every state.
        detach_value: keep the value loss from changing the language model.
        gradient_checkpointing: keep the input of each layer only and compute the rest again in the
            backward pass: less memory, a third more work, the same gradients. It may be set
            afterwards. None leaves a model that is given as it is.
        optimizer_class: by default Adam with eps 1e-5, as in Stable-Baselines3.
        optimizer_kwargs: its arguments apart from the learning rate.
        use_sde: accepted for the library's sake; must be False.

    Raises:
        ValueError: spaces or arguments that cannot work, each named with what is accepted.
    """

    actor_class: ClassVar[type[ActionLM]] = ActionLM
    vocabulary: dict[str, Any] | None = None
    fixed = frozenset(
        {
            "action_space", "bos_id", "eos_id", "forbidden", "lr_schedule", "model",
            "observation_space", "optimizer_class", "optimizer_kwargs", "pad_id", "prompt_length",
            "use_sde", "value_hidden",
        }
    )  # fmt: skip
    detach_value: Any = PolicySetting(lambda x: isinstance(x, bool), "True or False")
    gradient_checkpointing: Any = Checkpointing()

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        model: str | os.PathLike[str] | PreTrainedModel = "reviews",
        pad_id: int,
        bos_id: int | None = None,
        eos_id: int | None = None,
        prompt_length: int | None = None,
        forbidden: Iterable[int] = (),
        temperature: float = 1.0,
        value_hidden: Sequence[int] = (),
        detach_value: bool = False,
        gradient_checkpointing: bool | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        use_sde: bool = False,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde is for continuous actions; tokens are discrete")
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(f"observations must be a flat Box of ids, got {observation_space}")
        if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
            raise ValueError(f"actions must be Discrete ids from 0, got {action_space}")
        self.arguments: dict[str, Any] = {}
        with warnings.catch_warnings():  # of the library's own extractor, which is not used here
            warnings.simplefilter("ignore", TokenIdsWarning)
            super().__init__(
                observation_space,
                action_space,
                lr_schedule,
                optimizer_class=optimizer_class,
                optimizer_kwargs=optimizer_kwargs,
                normalize_images=False,
            )
        lm, self.tokenizer = self.load_model(model)
        self.actor = self.actor_class(
            lm,
            num_actions=int(action_space.n),
            pad_id=pad_id,
            bos_id=bos_id,
            prompt_length=prompt_length,
            forbidden=forbidden,
            temperature=temperature,
        )
        self.actor.check_length(observation_space.shape[0])
        check_shown(lm, highest_shown(observation_space, pad_id))
        widths = [self.actor.hidden_size, *value_hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
        last = nn.Linear(widths[-1], 1)
        # Advantages of the first roll-out are then plain returns, not noise of a random head.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.value_net = cast(Any, nn.Sequential(*layers, last))
        self.detach_value, self.gradient_checkpointing = detach_value, gradient_checkpointing
        banned = {*forbidden} | ({eos_id} if eos_id is not None else set())
        allowed = (i for i in range(self.actor.num_actions) if i not in banned)
        self.idle_action = next(allowed, eos_id or 0)
        parameters = [p for p in self.parameters() if p.requires_grad]
        arguments = self.optimizer_kwargs
        self.optimizer = make_optimizer(self.optimizer_class, parameters, lr_schedule(1), arguments)
        self.arguments |= {
            "model": model,
            "pad_id": pad_id,
            "bos_id": bos_id,
            "eos_id": eos_id,
            "prompt_length": prompt_length,
            "forbidden": list(forbidden),
            "temperature": temperature,
            "value_hidden": list(value_hidden),
            "optimizer_class": optimizer_class,
            "optimizer_kwargs": optimizer_kwargs,
        }

    def load_model(
        self, model: str | os.PathLike[str] | PreTrainedModel
    ) -> tuple[PreTrainedModel, Tokenizer | None]:
        """Return the language model of the actor and, if it comes with one, its tokenizer."""
        return load_lm(model)

    def _build(self, lr_schedule: Schedule) -> None:
        """Leave out the multilayer perceptrons that the parent would build."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            **self.present_arguments(),
        }

    def present_arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor that would make this policy as it is now."""
        return {k: getattr(self, k) if is_live(self, k) else v for k, v in self.arguments.items()}

    @property
    def temperature(self) -> float:
        """What divides the scores, at any time that of `actor`."""
        return self.actor.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.actor.temperature = value

    @property
    def further_models(self) -> dict[str, PreTrainedModel]:
        """Language models beside the actor's that a checkpoint keeps, by their arguments' names."""
        return {}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save weights and arguments as safetensors and JSON, to a folder or a `.zip`."""
        save_policy(self, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: torch.device | str = "auto",
        **overrides: Any,
    ) -> CausalLMPolicy:
        """Return a policy from `save`, or from a saved algorithm.

        Args:
            path: folder or `.zip`.
            device: where to put it.
            **overrides: arguments to use instead of the saved ones; `model` for an architecture
                that transformers cannot build by itself.
        """
        return cast(CausalLMPolicy, load_policy(cls, path, device, **overrides))

    # -- one step ------------------------------------------------------------------------------

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions `(n,)`, values `(n, 1)` and log-probabilities `(n,)`."""
        hidden = self._last_hidden(obs)
        actions, log_probs = self._choose(self.actor.logits(hidden), deterministic)
        return actions, self._values(hidden)[:, None], log_probs

    def act(
        self, obs: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Sample the next token of some rows: `forward` for arrays, with named rows.

        Args:
            obs: `(n, L)` observations.
            rows: `(n,)` which environment each row is.

        Returns:
            `(n,)` actions, values, log-probabilities, and the columns of the rows' last tokens.

        Raises:
            FloatingPointError: the model returns numbers that are not finite.
        """
        with torch.inference_mode():
            hidden, columns = self.actor.decode(obs, rows)
            actions, log_probs = sample(self.actor.logits(hidden))
            packed = torch.stack([self._values(hidden), log_probs]).cpu().numpy()
        if not np.isfinite(packed).all():
            raise FloatingPointError(
                "the policy's scores are not finite: training has diverged. Lower the learning "
                "rate, or stop earlier with target_kl"
            )
        return actions.cpu().numpy(), packed[0], packed[1], columns

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return values `(n, 1)`."""
        return self._values(self._last_hidden(cast(Tensor, obs)))[:, None]

    def get_distribution(self, obs: PyTorchObs) -> CategoricalDistribution:
        """Return the distribution over the next token, `(n, num_actions)`."""
        logits = self.actor.logits(self._last_hidden(cast(Tensor, obs)))
        distribution = CategoricalDistribution(self.actor.num_actions)
        return distribution.proba_distribution(logits)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        hidden = self._last_hidden(cast(Tensor, observation))
        return self._choose(self.actor.logits(hidden), deterministic)[0]

    def _last_hidden(self, obs: Tensor) -> Tensor:
        """Return the state after each observation: cached without gradients, encoded with."""
        tokens = obs.long()
        if not torch.is_grad_enabled():
            return self.actor.decode(tokens.cpu().numpy())[0]
        return self._encode_last(tokens)

    def _encode_last(self, tokens: Tensor) -> Tensor:
        tokens = torch.from_numpy(self.actor.complete(tokens.cpu().numpy())).to(self.device)
        last = tokens.shape[1] - 1 - (tokens != self.actor.pad_id).flip(1).int().argmax(dim=1)
        return self.actor.encode(tokens, last[:, None], torch.ones_like(last[:, None]).bool())

    def _choose(self, logits: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        if not deterministic:
            with torch.no_grad():
                actions, log_probs = sample(logits)
            return actions, token_log_probs(logits, actions) if logits.requires_grad else log_probs
        actions = logits.argmax(dim=1)
        return actions, token_log_probs(logits, actions)

    def _values(self, hidden: Tensor) -> Tensor:
        """Return $V(s)$ `(M,)` of hidden states `(M, d)`."""
        hidden = hidden.detach() if self.detach_value else hidden
        return cast(Tensor, self.value_net(hidden.float())).squeeze(1)

    # -- with gradients ------------------------------------------------------------------------

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values `(n, 1)`, log-probabilities and entropies `(n,)`; encodes every row."""
        hidden = self._encode_last(cast(Tensor, obs).long())
        log_probs, entropies = self.actor.log_probs(hidden, actions.long(), with_entropy=True)
        return self._values(hidden)[:, None], log_probs, entropies

    def evaluate_episodes(
        self,
        tokens: Tensor,
        columns: Tensor,
        actions: Tensor,
        mask: Tensor,
        *,
        with_entropy: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Score whole episodes: one forward pass a sequence, scores at action positions only.

        Args:
            tokens: `(B, L)` the final observation of each episode.
            columns: `(B, T)` the column that was last when action t was chosen.
            actions: `(B, T)` the actions.
            mask: bool `(B, T)` which steps exist.
            with_entropy: also return entropies.

        Returns:
            log-probabilities, values and entropies (None unless asked for), each `(B, T)` and 0
            outside of the mask.
        """
        hidden = self.actor.encode(tokens, columns, mask)
        log_probs, entropies = self.actor.log_probs(
            hidden, actions[mask], with_entropy=with_entropy
        )
        values = self._values(hidden)
        padded = torch.zeros(mask.shape, device=mask.device)
        return (
            padded.masked_scatter(mask, log_probs),
            padded.masked_scatter(mask, values),
            None if entropies is None else padded.masked_scatter(mask, entropies),
        )
