"""What algorithms share that learn from recorded episodes; everything that is not the algorithm.

A subclass writes `train_step`, which gets a minibatch and returns what to log. The rest is in the
shape of Stable-Baselines3: `learn` with callbacks and logger, `predict`, `save`, `load`.
"""

from __future__ import annotations

import os
import sys
import time
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import configure_logger
from torch import Tensor

from agents.checkpoints.algorithms import resume
from agents.common.checks import require, require_whole
from agents.common.envs import as_vec_env, policy_kwargs_for, recorded_env
from agents.common.settings import counting, is_number
from agents.data.batches import OfflineBatch, offline_batch
from agents.data.order import BatchOrder
from agents.policies.causal_lm import CausalLMPolicy
from agents.training.algorithm import TextAlgorithm
from agents.training.micro_batches import check_micro_batch
from agents.training.progress import OfflineProgressBar
from text_envs import datasets
from text_envs.datasets import EpisodeDataset

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OfflineAlgorithm"]

_EVALUATION_ENVS = 16


class OfflineAlgorithm(TextAlgorithm):
    """A Stable-Baselines3 algorithm whose experience is a data set.

    A step of `num_timesteps` is an action token trained on, so one pass over the data is
    `dataset.num_steps` of them. Callbacks are called once a minibatch.

    Metrics recorded here: the mean of each value that `train_step` returns, as `train/<name>`;
    `train/learning_rate`, `train/n_updates`; `time/epochs`, `time/fps` (action tokens a second),
    `time/time_elapsed`, `time/total_timesteps`.

    Attributes:
        data: the episodes as tensors, on the CPU; None without a data set.
        order: which minibatch comes next; made when learning begins.

    Args:
        policy: `"CausalLMPolicy"` or a subclass of it.
        env: an environment id, a Gymnasium environment, a `TokenVectorEnv` or a `VecEnv`; it says
            what the tokens mean, and callbacks may play on it. None for the one that the data set
            says it was recorded in.
        dataset: an `EpisodeDataset`, or what `text_envs.datasets.load` reads; None only to predict.
        learning_rate: a number, or a function of the remaining progress.
        batch_size: episodes a minibatch, on average; see `BatchOrder`.
        **kwargs: see `agents.training.arguments.RecordedArguments`.

    Raises:
        ValueError: an argument that cannot work, with what is accepted.
        DatasetError: the data are inconsistent or of another environment.
    """

    policy: CausalLMPolicy
    progress_bar = OfflineProgressBar
    fixed = frozenset({"dataset", "include_prefix"})
    batch_size: Any = counting()

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any = None,
        *,
        dataset: Any = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 64,
        max_grad_norm: float = 1.0,
        micro_batch_size: int | None = None,
        include_prefix: bool = False,
        num_envs: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | os.PathLike[str] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        require_whole("batch_size", batch_size)
        require("max_grad_norm", max_grad_norm, lambda x: x > 0, "above 0")
        require_whole("micro_batch_size", micro_batch_size, none=True)
        check_micro_batch(micro_batch_size, batch_size, None)
        self.batch_size, self.max_grad_norm = batch_size, max_grad_norm
        self.micro_batch_size = micro_batch_size
        self.include_prefix = include_prefix
        self.dataset = None if dataset is None else datasets.load(dataset)
        self.data: OfflineBatch | None = None
        self.order: BatchOrder | None = None
        self.pending = None
        if env is None and _init_setup_model and self.dataset is not None:
            rows = _EVALUATION_ENVS if num_envs is None else num_envs
            env, num_envs = recorded_env(self.dataset, rows), None
        env = as_vec_env(env, num_envs, _EVALUATION_ENVS)
        if env is not None:
            policy_kwargs = policy_kwargs_for(env, **(policy_kwargs or {}))
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=None if tensorboard_log is None else os.fspath(tensorboard_log),
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        if self.env is None and _init_setup_model:
            why = "or a dataset that says which one it was recorded in"
            if self.dataset is not None:
                known = self.dataset.metadata.get("env_id")
                why = f"because the data set does not say how to make {known or 'its own'} again"
            raise ValueError(
                f"{type(self).__name__} needs env, {why}; accepted: an id such as "
                "'text_envs/Toy-v0', or an environment"
            )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = cast(
            CausalLMPolicy,
            self.policy_class(
                self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
            ).to(self.device),
        )
        self.remember_words()
        if self.dataset is not None:
            self.data = self.as_batch(self.prepare(self.dataset))

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        if name == "batch_size" and self.order is not None:
            self.order.cut(self.batch_size)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed torch, numpy, Python, the environments and the order of the data."""
        super().set_random_seed(seed)
        if seed is not None and self.order is not None:
            self.order = BatchOrder(self.order.lengths, self.batch_size, seed)

    # -- what subclasses write or use ----------------------------------------------------------

    @abstractmethod
    def train_step(self, batch: OfflineBatch) -> dict[str, Tensor]:
        """Update the policy from a minibatch; return scalars to log, one of them `loss`."""

    def prepare(self, dataset: EpisodeDataset) -> EpisodeDataset:
        """Return the episodes to train on; a subclass may leave some out."""
        return dataset

    def as_batch(self, dataset: EpisodeDataset) -> OfflineBatch:
        """Return episodes as tensors, checked against the policy's vocabulary and length."""
        if self.env is not None:
            datasets.check_compatible(dataset, self.env)
        arguments = self.policy.arguments
        self.policy.actor.check_length(dataset.tokens.shape[1])
        return offline_batch(
            dataset,
            pad_id=arguments["pad_id"],
            eos_id=self.policy.actor.eos_ids,
            num_actions=self.policy.actor.num_actions,
            forbidden=arguments["forbidden"],
            include_prefix=self.include_prefix,
        )

    # -- learning ------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        n_epochs: float | None = None,
    ) -> Self:
        """Train on the data set.

        Args:
            total_timesteps: action tokens to train on.
            callback: called once a minibatch.
            log_interval: minibatches between two records of the logger.
            tb_log_name: name of the run in TensorBoard; None for the class's name.
            reset_num_timesteps: False goes on counting, and resumes a loaded run exactly.
            progress_bar: show one, in tokens.
            n_epochs: passes over the data, instead of `total_timesteps`.

        Raises:
            ValueError: there is no data set, or not exactly one of the two lengths is given.
        """
        if self.data is None:
            raise ValueError(f"{type(self).__name__} was made without a data set; pass dataset=...")
        self.check_learn(0 if total_timesteps is None else total_timesteps, callback)
        if (total_timesteps is None) == (n_epochs is None):
            raise ValueError(
                "give either total_timesteps or n_epochs, got "
                f"total_timesteps={total_timesteps}, n_epochs={n_epochs}"
            )
        length = "total_timesteps" if n_epochs is None else "n_epochs"
        given = total_timesteps if n_epochs is None else n_epochs
        require(length, given, lambda x: is_number(x) and x >= 0, "a finite number of at least 0")
        require_whole("log_interval", log_interval)
        if n_epochs is not None:
            total_timesteps = round(n_epochs * self.data.num_steps)
        name = type(self).__name__ if tb_log_name is None else tb_log_name
        total, calls = self._setup_learn(
            cast(int, total_timesteps), callback, reset_num_timesteps, name, progress_bar
        )
        order = cast(BatchOrder, self.order)
        sums: dict[str, Tensor] = {}
        seen = 0
        calls.on_training_start({"total_timesteps": total, "self": self}, globals())
        while self.num_timesteps < total:
            calls.on_rollout_start()
            batch = self.data.select(order.next()).to(self.device)
            self._update_current_progress_remaining(self.num_timesteps, total)
            self._update_learning_rate(self.policy.optimizer)
            self.policy.set_training_mode(True)
            metrics = {k: torch.as_tensor(v).detach() for k, v in self.train_step(batch).items()}
            self._n_updates += 1
            steps = batch.num_steps
            self.num_timesteps, seen = self.num_timesteps + steps, seen + steps
            for key, value in metrics.items():
                sums[key] = sums.get(key, torch.zeros_like(value)) + steps * value
            calls.update_locals({"batch": batch, "metrics": metrics})
            going_on = calls.on_step()
            calls.on_rollout_end()
            if self._n_updates % log_interval == 0 or self.num_timesteps >= total or not going_on:
                self._record({key: (value / seen).item() for key, value in sums.items()})
                sums, seen = {}, 0
            if not going_on:
                break
        calls.on_training_end()
        return self

    def dump_logs(self, iteration: int = 0) -> None:
        """Write what was recorded since the last time; some callbacks of the library ask for it."""
        self.logger.dump(step=self.num_timesteps)

    def _record(self, means: dict[str, float]) -> None:
        """Record metrics averaged over the action tokens since the last record."""
        for key, value in means.items():
            self.logger.record(f"train/{key}", value)
        seconds = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        new = self.num_timesteps - self._num_timesteps_at_start
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        epochs = self.num_timesteps / cast(OfflineBatch, self.data).num_steps
        self.logger.record("time/epochs", epochs)
        self.logger.record("time/fps", int(new / seconds))
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """Return the total and the callbacks as one; no environment is touched."""
        if reset_num_timesteps:
            self.start_anew()
            self.num_timesteps, self._episode_num = 0, 0
        if self.order is None:
            lengths = cast(OfflineBatch, self.data).lengths.numpy()
            self.order = BatchOrder(lengths, self.batch_size, self.seed)
        resume(self)
        if self.ep_info_buffer is None or reset_num_timesteps:
            self.ep_info_buffer = deque(maxlen=self._stats_window_size)
            self.ep_success_buffer = deque(maxlen=self._stats_window_size)
        self._total_timesteps = total_timesteps + self.num_timesteps
        self._num_timesteps_at_start = self.num_timesteps
        if not self._custom_logger:
            self._logger = configure_logger(
                self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps
            )
        calls = self._init_callback(callback, progress_bar)
        self.start_time = time.time_ns()
        return self._total_timesteps, calls

    # -- saving --------------------------------------------------------------------------------

    def data_state(self) -> dict[str, Any]:
        """Return where the order of the data is, for a checkpoint."""
        return {"order": None if self.order is None else self.order.state()}

    def set_data_state(self, state: dict[str, Any]) -> None:
        """Put back what `data_state` returned; called when a loaded run goes on."""
        if state["order"] is not None and self.order is not None:
            self.order.set_state(state["order"])

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
