"""What every algorithm here does in a way of its own: callbacks with a token bar, plain files.

Saving writes safetensors and JSON where Stable-Baselines3 would pickle.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from agents.checkpoints.algorithms import SPECIAL, load_algorithm, save_algorithm, set_parameters
from agents.common.arguments import complete, parameters_of, refuse_unknown
from agents.common.checks import require_whole
from agents.common.envs import tokenizer_of
from agents.common.settings import Guarded, Setting, counting, is_live, unlocked
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.instructed import InstructedPolicy, InstructedSeq2SeqPolicy
from agents.policies.seq2seq import Seq2SeqPolicy
from agents.training.checks import (
    RATE,
    check_callback,
    check_shared,
    check_tensorboard,
    check_total,
    is_rate,
)
from agents.training.gradients import clip_gradients
from agents.training.micro_batches import Loss, Part, check_micro_batch, micro_batches
from text_envs.policies.sources import check_tokens
from text_envs.tokens.vocabulary import check_vocabulary, tokenizer_facts

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TextAlgorithm"]


class TextAlgorithm(Guarded, BaseAlgorithm):
    """A Stable-Baselines3 algorithm over a `CausalLMPolicy`, saved without pickle.

    A subclass sets `progress_bar` to the callback that draws its bar.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        kind.__name__: kind
        for kind in (CausalLMPolicy, Seq2SeqPolicy, InstructedPolicy, InstructedSeq2SeqPolicy)
    }
    fixed = frozenset({"device", "env", "num_envs", "policy", "policy_kwargs", "seed"})
    remedies: ClassVar[dict[str, str]] = {
        "device": "load(path, device=...)",
        "env": "set_env(env)",
        "policy": "set_parameters(...), or another agent",
        "seed": "set_random_seed(seed), or load(path, seed=...)",
    }
    learning_rate: Any = Setting(is_rate, RATE)
    max_grad_norm: Any = Setting(lambda x: x > 0, "above 0")
    micro_batch_size: Any = counting(none=True)
    verbose: Any = counting(0)
    tensorboard_log: Any = Setting(
        lambda x: x is None or isinstance(x, str | os.PathLike), "None or a folder"
    )
    progress_bar: ClassVar[type[BaseCallback]]
    pending: dict[str, Any] | None  # a checkpoint's state, until training goes on
    is_loading = False
    given: dict[str, Any]  # the arguments it was made with

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show all arguments of the subclass, see `agents.common.arguments`."""
        super().__init_subclass__(**kwargs)
        complete(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse unknown arguments before anything is made, and note the others for `save`."""
        refuse_unknown(cls, kwargs)
        made = super().__new__(cls)
        given = {**dict(zip(parameters_of(cls), args, strict=False)), **kwargs}
        check_shared(cls, given)
        made.given = {name: value for name, value in given.items() if name not in SPECIAL}
        return made

    def is_whole(self) -> bool:
        """Return whether there is a policy; `load` makes it later."""
        return "policy" in vars(self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; not one that is the policy's alone."""
        policy = vars(self).get("policy") if "_finished" in vars(self) else None
        if policy is not None and is_live(policy, name) and not hasattr(type(self), name):
            if name in getattr(policy, "arguments", ()):
                raise AttributeError(
                    f"{name} is the policy's; accepted: agent.policy.{name} = {value!r}"
                )
        super().__setattr__(name, value)

    def remedy(self, name: str) -> str:
        """Return what to do instead of setting something that is fixed."""
        special = super().remedy(name)
        made = f"{type(self).__name__}(..., {name}=...)"
        return f"{made}, or load(path, {name}=...)" if special == made else special

    @property
    def stats_window_size(self) -> int:
        """Episodes that `rollout/ep_*_mean` average over; may be set at any time."""
        return self._stats_window_size

    @stats_window_size.setter
    def stats_window_size(self, value: int) -> None:
        require_whole("stats_window_size", value)
        self._stats_window_size = value
        for name in ("ep_info_buffer", "ep_success_buffer"):
            kept = getattr(self, name)
            setattr(self, name, None if kept is None else deque(kept, maxlen=value))

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        if name == "learning_rate":
            self._setup_lr_schedule()
        if name in ("micro_batch_size", "batch_size", "n_episodes"):
            sizes = (vars(self).get("batch_size"), vars(self).get("n_episodes"))
            check_micro_batch(self.micro_batch_size, *sizes)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all but the logger, whose files are open; `learn` makes it."""
        state = {k: v for k, v in vars(self).items() if k != "_logger"}
        return state | {"_custom_logger": False}

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        """Return the callbacks as one; the progress bar counts tokens."""
        if isinstance(callback, list):
            callback = CallbackList(callback)
        if not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        if progress_bar:
            callback = CallbackList([callback, self.progress_bar()])
        callback.init_callback(self)
        return callback

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Tell how much is left: 0 where the last iteration went beyond the total.

        Below it, a schedule that falls to 0 would become a negative learning rate.
        """
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        self._current_progress_remaining = max(0.0, self._current_progress_remaining)

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Save weights, optimiser, reference, counters, generators, and environment or data order.

        Args:
            path: a folder, or a file ending in `.zip`. It is replaced at once, never half.
            exclude: Stable-Baselines3's; not used.
            include: Stable-Baselines3's; not used.
        """
        save_algorithm(self, path)

    def remember_words(self) -> None:
        """Note at the policy which words it learns; call it once policy and environment are there.

        Raises:
            ValueError: the model of the policy comes with other words than the environment's.
        """
        tokenizer = None if self.env is None else tokenizer_of(self.env)
        if tokenizer is not None and isinstance(self.policy, CausalLMPolicy):
            if not self.is_loading:  # `load` compares by itself, and says more
                check_tokens("model", self.policy.tokenizer, tokenizer, ends=False)
            self.policy.vocabulary = tokenizer_facts(tokenizer)
            if self.policy.tokenizer is None:  # of a model that came without: saved beside it
                self.policy.tokenizer = tokenizer

    def optimize(self, loss: Tensor) -> Tensor:
        """Take one step on a loss that was computed whole; return the norm of the gradient, `()`.

        `descend` does it in parts.

        Raises:
            FloatingPointError: the loss is not finite; the weights are left as they are.
            ValueError: there is a `micro_batch_size`, which this cannot keep to.
        """
        if self.micro_batch_size is not None:
            raise ValueError(
                f"{type(self).__name__} computes whole minibatches; accepted: "
                "micro_batch_size=None, or a train that calls self.descend(batch, loss)"
            )
        self._check_finite(loss.detach())
        self.policy.optimizer.zero_grad()
        loss.backward()
        return self.step()

    def descend(self, batch: Any, loss: Loss, passes: int = 1) -> dict[str, Tensor]:
        """Take one step on the loss of a minibatch, micro-batch by micro-batch.

        Args:
            batch: a minibatch: a `Rollout`, an `OfflineBatch`, or what else has `tokens`, a length
                and `select`.
            loss: see `agents.training.micro_batches`.
            passes: sequences that each row of the minibatch is scored in.

        Returns:
            the metrics, and `grad_norm`.

        Raises:
            FloatingPointError: the loss is not finite; the weights are left as they are.
        """
        metrics = self.accumulate(batch, loss, passes)
        return metrics | {"grad_norm": self.step()}

    def accumulate(self, batch: Any, loss: Loss, passes: int = 1) -> dict[str, Tensor]:
        """Leave the gradients of a minibatch's loss at the parameters; see `descend`."""
        # The passes want the memory of the last gradients, and of states that a step makes stale.
        self.policy.optimizer.zero_grad()
        cast(CausalLMPolicy, self.policy).actor.invalidate()
        cut = self.parts_of(batch, passes)
        total: Tensor | float = 0.0
        metrics: dict[str, Tensor] = {}
        parts = [Part.of(batch)] if cut is None else (Part.cut(batch, index) for index in cut)
        for part in parts:
            share, shares = loss(part)
            total = total + share.detach()
            self._check_finite(share.detach())
            share.backward()
            del share, part
            for name, value in shares.items():
                value = value.detach()
                metrics[name] = metrics[name] + value if name in metrics else value
        return {"loss": torch.as_tensor(total), **metrics}

    def parts_of(self, batch: Any, passes: int = 1) -> list[Tensor] | None:
        """Return the rows of each micro-batch of a minibatch; None where one takes them all."""
        return micro_batches(batch, self.policy, self.micro_batch_size, passes)

    def step(self) -> Tensor:
        """Scale the gradients, move the parameters; return the norm of the gradient, `()`."""
        optimizer = self.policy.optimizer
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = clip_gradients([g for g in gradients if g is not None], self.max_grad_norm)
        optimizer.step()
        return norm

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            self.policy.optimizer.zero_grad()
            raise FloatingPointError(
                f"the loss of update {self._n_updates + 1} is {loss.item()}: training has "
                "diverged. Lower the learning rate"
            )

    def check_learn(self, total_timesteps: Any, callback: Any) -> None:
        """Refuse arguments of `learn` before anything is done.

        Raises:
            ValueError: a length that is none, or a callback that cannot be called.
            ImportError: TensorBoard is asked for and missing.
        """
        check_total("total_timesteps", total_timesteps)
        check_callback(callback)
        check_tensorboard(self.tensorboard_log)

    def start_anew(self) -> None:
        """Begin a new run: forget where a loaded one was, which is then seeded as a new one."""
        if self.pending is not None:
            self.pending = None
            self.set_random_seed(self.seed)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Take another environment of the same spaces and the same words.

        Raises:
            ValueError: its words or its spaces are others.
        """
        tokenizer = tokenizer_of(env)
        if tokenizer is not None and isinstance(self.policy, CausalLMPolicy):
            name = f"this {type(self).__name__}"
            check_vocabulary(name, self.policy.vocabulary, tokenizer, padding=True)
        with unlocked(self):
            super().set_env(env, force_reset)

    @classmethod
    def load(  # type: ignore[override]
        cls, path: Any, env: Any = None, device: torch.device | str = "auto", **kwargs: Any
    ) -> Self:
        """Return a saved algorithm.

        `learn(..., reset_num_timesteps=False)` then continues exactly as the saved run would have,
        if it was saved between two iterations and the environment offers `get_state`; or, of an
        algorithm that learns offline, if it gets the same `dataset`.

        Args:
            path: a folder or a `.zip` that `save` wrote.
            env: an environment like the one trained on; None if only predictions are wanted.
            device: where to put it.
            **kwargs: arguments to use instead of the saved ones; a `dataset` is never saved. With a
                `seed`, training goes on with the random numbers of that seed. Those that
                Stable-Baselines3's `load` has are taken too: `custom_objects` are such arguments,
                `print_system_info` and `force_reset` have no effect.

        Raises:
            CheckpointError: a file is truncated, altered or of something else; it is named.
            FileNotFoundError: there is nothing at `path`.
        """
        for name in ("print_system_info", "force_reset"):
            kwargs.pop(name, None)
        kwargs = {**(kwargs.pop("custom_objects", None) or {}), **kwargs}
        return cast("Self", load_algorithm(cls, path, env, device, **kwargs))

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto"
    ) -> None:
        """Take over weights and optimiser state from a checkpoint or from `get_parameters()`.

        Args:
            load_path_or_dict: path of a checkpoint, or nested state dictionaries.
            exact_match: ask for everything; otherwise take what is there.
            device: Stable-Baselines3's; not used.
        """
        if isinstance(load_path_or_dict, dict):
            super().set_parameters(load_path_or_dict, exact_match, device)
        else:
            set_parameters(self, load_path_or_dict, exact_match)
