"""What on-policy algorithms over whole episodes share; everything that is not the algorithm.

A subclass writes `train`, which reads `self.rollout`. Stable-Baselines3's own loop (`learn`,
callbacks, logger) calls it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.checkpoints.algorithms import resume
from agents.common.checks import require, require_weight, require_whole
from agents.common.envs import as_vec_env, policy_kwargs_for
from agents.common.settings import Setting, counting, weighing
from agents.losses.on_policy import (
    adaptive_kl_coefficient,
    kl_k1,
    kl_k3,
    kl_penalised_rewards,
    masked_mean,
)
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollouts.episodes import Collected, collect_episodes, score
from agents.rollouts.groups import collect_groups
from agents.rollouts.rollout import Rollout
from agents.training.checks import check_rows, check_target
from agents.training.micro_batches import check_micro_batch
from agents.training.progress import TokenProgressBar
from agents.training.referenced import ReferencedAlgorithm

if TYPE_CHECKING:
    pass

__all__ = ["EpisodicAlgorithm", "TokenProgressBar"]


class EpisodicAlgorithm(ReferencedAlgorithm, OnPolicyAlgorithm):
    """Stable-Baselines3's on-policy algorithm with roll-outs of whole episodes.

    One iteration plays `n_episodes` episodes to their end, scores them under the reference if
    there is one, and calls `train`. A step of `num_timesteps` is a token that the agent chose.

    Metrics recorded here: `rollout/ep_rew_mean`, `rollout/ep_len_mean`, `rollout/entropy`,
    `rollout/reward_<term>` for each term of the ledger, and with a reference `rollout/kl_ref` (nats
    an episode), `rollout/kl_ref_k3` and `rollout/kl_coef`.

    Args:
        policy: `"CausalLMPolicy"` or a subclass of it.
        env: an environment id, a Gymnasium environment, a `TokenVectorEnv` or a `VecEnv`.
        learning_rate: a number, or a function of the remaining progress.
        n_episodes: episodes an iteration, a multiple of the number of environments.
        group_size: that many neighbouring episodes of a roll-out share their start. The
            environments are then reset before each of their episodes.
        gamma: discount factor.
        gae_lambda: lambda of the advantage estimation; for algorithms that use it.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss; for algorithms that have one.
        **kwargs: see `agents.training.arguments.KLArguments`; what becomes of the KL is the
            algorithm's decision.

    Raises:
        ValueError: an argument that cannot work, with the arithmetic and the remedy.
    """

    policy: CausalLMPolicy
    progress_bar = TokenProgressBar
    takes_goals: ClassVar[bool] = False  # observations with a desired goal beside the tokens
    rollout: Rollout | None
    n_episodes: Any = counting()
    group_size: Any = counting()
    gamma: Any = Setting(lambda x: 0 <= x <= 1, "in [0, 1]")
    gae_lambda: Any = Setting(lambda x: 0 <= x <= 1, "in [0, 1]")
    ent_coef: Any = weighing()
    vf_coef: Any = weighing()
    kl_coef: Any = weighing()
    kl_target: Any = Setting(lambda x: x is None or x > 0, "None or above 0")
    kl_horizon: Any = Setting(lambda x: x > 0, "above 0")

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any,
        learning_rate: float | Schedule = 3e-4,
        n_episodes: int = 64,
        *,
        group_size: int = 1,
        gamma: float = 1.0,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.0,
        max_grad_norm: float = 1.0,
        micro_batch_size: int | None = None,
        kl_coef: float = 0.0,
        kl_target: float | None = None,
        kl_horizon: float = 10_000.0,
        reference: Any = None,
        num_envs: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | os.PathLike[str] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        _library: dict[str, Any] | None = None,
    ) -> None:
        require_whole("n_episodes", n_episodes)
        require_whole("group_size", group_size)
        for name, share in (("gamma", gamma), ("gae_lambda", gae_lambda)):
            require(name, share, lambda x: 0 <= x <= 1, "in [0, 1]")
        for name, weight in (("ent_coef", ent_coef), ("vf_coef", vf_coef), ("kl_coef", kl_coef)):
            require_weight(name, weight)
        require("max_grad_norm", max_grad_norm, lambda x: x > 0, "above 0")
        require_whole("micro_batch_size", micro_batch_size, none=True)
        require("kl_horizon", kl_horizon, lambda x: x > 0, "above 0")
        require("kl_target", kl_target, lambda x: x is None or x > 0, "None or above 0")
        check_target(kl_target, kl_coef)
        if env is None and _init_setup_model:
            raise ValueError(
                f"{type(self).__name__} needs env; accepted: an id such as 'text_envs/Toy-v0', or "
                "an environment"
            )
        env = as_vec_env(env, num_envs, n_episodes, group_size)
        rows = getattr(env, "num_envs", 1)
        check_rows(n_episodes, rows, group_size if env is not None else 1)
        self.group_size = group_size
        if env is not None:
            policy_kwargs = policy_kwargs_for(env, **(policy_kwargs or {}))
        self.n_episodes, self.kl_coef = int(n_episodes), float(kl_coef)
        self.kl_target, self.kl_horizon = kl_target, kl_horizon
        batch_size = (_library or vars(self)).get("batch_size")
        check_micro_batch(micro_batch_size, batch_size, n_episodes)
        self.micro_batch_size = micro_batch_size
        self._reference_source = reference
        self.pending = None
        self.rollout = None
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_episodes // rows,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=None if tensorboard_log is None else os.fspath(tensorboard_log),
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            # Of a class of the library that stands behind this one, as its PPO does.
            **({"supported_action_spaces": (spaces.Discrete,)} if _library is None else _library),
        )

    def _setup_model(self) -> None:
        if isinstance(self.observation_space, spaces.Dict) and not self.takes_goals:
            raise ValueError(
                f"{type(self).__name__} plays for rewards, not for goals as this environment asks; "
                "accepted: the id without Goal, or the algorithms HIR and FARL"
            )
        super()._setup_model()
        self.remember_words()
        self.make_reference()

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        if name in ("n_episodes", "group_size"):
            check_rows(self.n_episodes, self.n_envs, self.group_size)
            self.n_steps = self.n_episodes // self.n_envs
        if name in ("kl_coef", "kl_target"):
            check_target(self.kl_target, self.kl_coef)
            if self.kl_coef > 0 and self._reference is None:
                raise ValueError(
                    f"kl_coef={self.kl_coef} needs a reference, and {type(self).__name__} was made "
                    "without; accepted: agent.reference = a model, before"
                )

    # -- roll-outs -----------------------------------------------------------------------------

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: Any = None,
        n_rollout_steps: int = 0,
    ) -> bool:
        """Play `n_episodes` episodes into `self.rollout`; False if a callback stopped it.

        The last two arguments are Stable-Baselines3's and not used.
        """
        self.policy.set_training_mode(False)
        self.policy.optimizer.zero_grad()  # gradients take as much memory as weights
        callback.on_rollout_start()
        if self.group_size == 1 and not cast(Any, self._last_episode_starts).all():
            self._last_obs = env.reset()  # type: ignore[assignment]

        def on_step(step: dict[str, Any]) -> bool:
            self.num_timesteps += step["n_tokens"]
            callback.update_locals(step)
            return callback.on_step()

        obs, self._last_obs = cast(Any, self._last_obs), None  # None: if it fails, reset
        collected = self._play(env, obs, on_step)
        self._last_obs = cast(Any, collected.obs)
        self._last_episode_starts = cast(Any, collected.episode_starts)
        self.rollout = collected.rollout.to(self.device)
        if not collected.complete:
            return False
        self._record_rollout(self.rollout)
        callback.update_locals({"rollout": self.rollout})
        callback.on_rollout_end()
        return True

    def _play(
        self, env: VecEnv, obs: NDArray[np.int64], on_step: Callable[[dict[str, Any]], bool]
    ) -> Collected:
        """Play the episodes of one iteration."""
        if self.group_size == 1:
            return collect_episodes(self.behaviour, env, self.n_episodes, obs, on_step)
        return collect_groups(self.behaviour, env, self.n_episodes, self.group_size, on_step)

    @property
    def behaviour(self) -> CausalLMPolicy:
        """The policy that samples; what is trained, unless a subclass says otherwise."""
        return self.policy

    def _record_rollout(self, rollout: Rollout) -> None:
        """Score the roll-out under the reference and record its statistics."""
        assert self.ep_info_buffer is not None
        rewards, lengths = rollout.episode_rewards.tolist(), rollout.lengths.tolist()
        if rollout.policy_mask is None:  # a monitor saw the texts, before rewards were normalised
            seen = [info.get("episode", {}).get("r") for info in rollout.infos]
            rewards = [r if s is None else float(s) for r, s in zip(rewards, seen, strict=True)]
        for reward, length in zip(rewards, lengths, strict=True):
            self.ep_info_buffer.append({"r": reward, "l": length, "t": 0.0})
        self._episode_num += len(rollout)
        # -log pi of what was sampled is the entropy without walking over the vocabulary again.
        own = masked_mean(rollout.log_probs, rollout.policy_steps)
        self.logger.record("rollout/entropy", -own.item())
        for name, term in rollout.reward_terms.items():
            self.logger.record(f"rollout/reward_{name}", term.mean().item())
        if self.reference is not None:
            rollout.ref_log_probs = score(self.reference, rollout, self.micro_batch_size)
            if rollout.policy_mask is not None:  # what the policy did not choose has no KL
                rollout.ref_log_probs = torch.where(
                    rollout.policy_mask, rollout.ref_log_probs, rollout.log_probs
                )
            arguments = (rollout.log_probs, rollout.ref_log_probs, rollout.mask)
            kl = kl_k1(*arguments).sum(dim=1).mean().item()
            self.logger.record("rollout/kl_ref", kl)
            self.logger.record("rollout/kl_ref_k3", kl_k3(*arguments).sum(dim=1).mean().item())
            self.logger.record("rollout/kl_coef", self.kl_coef)

    def penalised_rewards(self, rollout: Rollout) -> Tensor:
        """Return the rewards `(B, T)` less beta times the log-ratio to the reference."""
        if rollout.ref_log_probs is None:
            return rollout.rewards
        return kl_penalised_rewards(
            rollout.rewards, rollout.log_probs, rollout.ref_log_probs, rollout.mask, self.kl_coef
        )

    def _adapt_kl_coef(self, rollout: Rollout) -> None:
        """Move `kl_coef` towards the target; call it after the roll-out has been used."""
        if self.kl_target is not None and rollout.ref_log_probs is not None:
            k1 = kl_k1(rollout.log_probs, rollout.ref_log_probs, rollout.mask)
            kl = k1.sum(dim=1).mean().item()
            self.kl_coef = adaptive_kl_coefficient(
                self.kl_coef, kl, self.kl_target, len(rollout), self.kl_horizon
            )

    # -- glue ----------------------------------------------------------------------------------

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        if self.env is None:
            raise ValueError(
                f"{type(self).__name__} has no environment to learn in: give load(path, env=...), "
                "or call set_env"
            )
        self.check_learn(total_timesteps, args[0] if args else kwargs.get("callback"))
        reset = args[1] if len(args) > 1 else kwargs.get("reset_num_timesteps", True)
        if reset:
            self.start_anew()
        resume(self)
        return super()._setup_learn(total_timesteps, *args, **kwargs)
