r"""Stable-Baselines3's actor-critic policy over a causal language model.

The observation is the text so far, the action the next token. One pass through the transformer
gives a hidden state $h_t$; the language model's own output layer turns it into
$\pi(a_t | s_t) = \mathrm{softmax}(z_t / \tau)_{a_t}$ and a small head into $V(s_t)$.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from agents.common.settings import Guarded, PolicySetting
from agents.policies.checkpointing import Checkpointing
from agents.policies.drawing import Draws
from agents.policies.optimisers import make_optimizer
from agents.policies.stored import StoredPolicy
from agents.policies.vocabulary import highest_shown
from text_envs.envs.spaces import TokenIdsWarning
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.checks import check_shown
from text_envs.lm.likelihood import sample
from text_envs.lm.loading import adapted, load_lm
from text_envs.lm.precision import check_dtype, outside_autocast
from text_envs.lm.transfers import download, last_columns, on_host, places_of, spread
from text_envs.tokens.protocol import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CausalLMPolicy"]


class CausalLMPolicy(Guarded, Draws, StoredPolicy, ActorCriticPolicy):
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
        model: `"reviews"`, a folder, a Hub name, or a model of transformers or peft.
        lora: train low-rank adapters instead of the model, which is frozen and shared with the
            reference: arguments of `peft.LoraConfig` such as `{"r": 16}`; None for the model.
        dtype: of the model's weights: "float32", "bfloat16", "auto" for what they are stored in, or
            a type of torch. None for float32, or the type of a model that is given as an object.
            The optimiser keeps float32 weights of bfloat16 ones.
        pad_id: marks empty columns of an observation.
        bos_id: starts a text whose prompt is empty.
        eos_id: ends a text: `min_tokens` puts it off, and rows that are idle avoid it.
        prompt_length: number of prompt columns.
        forbidden: ids that are never written.
        temperature: divides the scores. The sampled and the scored distribution are the same; this
            and the next five may be set afterwards, as may `detach_value`.
        top_k: only so many of the likeliest tokens are drawn; None for all.
        top_p: only the likeliest tokens that make up this probability; None for all.
        min_p: only tokens with this share of the likeliest one's probability; None for all.
        repetition_penalty: divides positive scores of tokens that the text holds, the prompt
            included, and multiplies negative ones; 1 for none.
        min_tokens: so many tokens stand behind the prompt before the end may.
        eos_ids: further ids that end a text.
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
            "action_space", "bos_id", "dtype", "eos_id", "eos_ids", "forbidden", "lora",
            "lr_schedule", "model", "observation_space", "optimizer_class", "optimizer_kwargs",
            "pad_id", "prompt_length", "use_sde", "value_hidden",
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
        lora: Mapping[str, Any] | None = None,
        dtype: str | torch.dtype | None = None,
        pad_id: int,
        bos_id: int | None = None,
        eos_id: int | None = None,
        prompt_length: int | None = None,
        forbidden: Iterable[int] = (),
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        min_tokens: int = 0,
        eos_ids: Sequence[int] = (),
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
        check_dtype(dtype, trained=True)
        lm, self.tokenizer = self.load_model(model, dtype)
        check_dtype(lm.dtype, trained=True)
        lm = lm if lora is None else adapted(lm, lora, model)
        ends = {*eos_ids} | ({eos_id} if eos_id is not None else set())
        self.actor = self.actor_class(
            lm,
            num_actions=int(action_space.n),
            pad_id=pad_id,
            bos_id=bos_id,
            prompt_length=prompt_length,
            forbidden=forbidden,
            eos_ids=ends,
        )
        settings = self.set_sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, min_tokens=min_tokens,
        )  # fmt: skip
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
        banned = {*forbidden, *ends}
        allowed = (i for i in range(self.actor.num_actions) if i not in banned)
        self.idle_action = next(allowed, eos_id or 0)
        parameters = [p for p in self.parameters() if p.requires_grad]
        arguments = self.optimizer_kwargs
        self.optimizer = make_optimizer(self.optimizer_class, parameters, lr_schedule(1), arguments)
        self.arguments |= {
            "model": model,
            "lora": lora,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "pad_id": pad_id,
            "bos_id": bos_id,
            "eos_id": eos_id,
            "prompt_length": prompt_length,
            "forbidden": list(forbidden),
            **settings,
            "eos_ids": list(eos_ids),
            "value_hidden": list(value_hidden),
            "optimizer_class": optimizer_class,
            "optimizer_kwargs": optimizer_kwargs,
        }

    def load_model(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
        dtype: str | torch.dtype | None = None,
    ) -> tuple[PreTrainedModel, Tokenizer | None]:
        """Return the language model of the actor and, if it comes with one, its tokenizer."""
        return load_lm(model, dtype=dtype)

    def _build(self, lr_schedule: Schedule) -> None:
        """Leave out the multilayer perceptrons that the parent would build."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            **self.present_arguments(),
        }

    # -- one step ------------------------------------------------------------------------------

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions `(n,)`, values `(n, 1)` and log-probabilities `(n,)`."""
        hidden = self._last_hidden(obs)
        actions, log_probs = self._choose(self._next_logits(hidden, obs), deterministic)
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
            actions, log_probs = sample(self.actor.sampling_logits(hidden, self.actor.seen(obs)))
            chosen, values, scores = download(actions, self._values(hidden), log_probs)
        if not (np.isfinite(values).all() and np.isfinite(scores).all()):
            raise FloatingPointError(
                "the policy's scores are not finite: training has diverged. Lower the learning "
                "rate, or stop earlier with target_kl"
            )
        return chosen, values, scores, columns

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return values `(n, 1)`."""
        return self._values(self._last_hidden(cast(Tensor, obs)))[:, None]

    def get_distribution(self, obs: PyTorchObs) -> CategoricalDistribution:
        """Return the distribution over the next token, `(n, num_actions)`."""
        logits = self._next_logits(self._last_hidden(cast(Tensor, obs)), obs)
        distribution = CategoricalDistribution(self.actor.num_actions)
        return distribution.proba_distribution(logits)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        hidden = self._last_hidden(cast(Tensor, observation))
        return self._choose(self._next_logits(hidden, observation), deterministic)[0]

    def _last_hidden(self, obs: Tensor) -> Tensor:
        """Return the state after each observation: cached without gradients, encoded with."""
        tokens = obs.long()
        if not torch.is_grad_enabled():
            return self.actor.decode(*on_host(tokens))[0]
        return self._encode_last(tokens)

    def _encode_last(self, tokens: Tensor) -> Tensor:
        return self.actor.encode(*last_columns(self.actor, tokens))

    @outside_autocast
    def _values(self, hidden: Tensor) -> Tensor:
        """Return $V(s)$ `(M,)` of hidden states `(M, d)`."""
        hidden = hidden.detach() if self.detach_value else hidden
        return cast(Tensor, self.value_net(hidden.float())).squeeze(1)

    # -- with gradients ------------------------------------------------------------------------

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values `(n, 1)`, log-probabilities and entropies `(n,)`; encodes every row."""
        tokens = cast(Tensor, obs).long()
        hidden = self._encode_last(tokens)
        log_probs, entropies = self.actor.sampling_log_probs(
            hidden, actions.long(), self.actor.seen(tokens), with_entropy=True
        )
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
        places = places_of(mask)  # (M,)
        seen = self.actor.seen(tokens, columns, mask)
        log_probs, entropies = self.actor.sampling_log_probs(
            hidden, actions.flatten()[places], seen, with_entropy=with_entropy
        )
        return (
            spread(log_probs, places, mask.shape),
            spread(self._values(hidden), places, mask.shape),
            None if entropies is None else spread(entropies, places, mask.shape),
        )
