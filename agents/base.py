"""What on-policy algorithms over whole episodes share; everything that is not the algorithm.

A subclass writes `train`, which reads `self.rollout`. Stable-Baselines3's own loop (`learn`,
callbacks, logger) calls it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from tqdm.auto import tqdm

from agents.envs import as_vec_env, policy_kwargs_for
from agents.functional import adaptive_kl_coefficient, kl_k1, kl_k3, masked_mean
from agents.policies import CausalLMPolicy
from agents.rollouts import Rollout, collect_episodes, score
from agents.saving import load_algorithm, resume, save_algorithm, set_parameters
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.loading import BUNDLED, freeze, load_lm

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EpisodicAlgorithm", "TokenProgressBar"]


class EpisodicAlgorithm(OnPolicyAlgorithm):
    """Stable-Baselines3's on-policy algorithm with roll-outs of whole episodes.

    One iteration plays `n_episodes` episodes to their end, scores them under the reference if
    there is one, and calls `train`. A step of `num_timesteps` is a token that the agent chose.

    Metrics recorded here: `rollout/ep_rew_mean`, `rollout/ep_len_mean`, `rollout/entropy`,
    `rollout/reward_<term>` for each term of the ledger, and with a reference `rollout/kl_ref` (nats
    an episode), `rollout/kl_ref_k3` and `rollout/kl_coef`.

    Args:
        policy: `"CausalLMPolicy"` or a subclass of it.
        env: an environment id, a Gymnasium environment, a `TokenVectorEnv` or a `VecEnv`.
        n_episodes: episodes an iteration, a multiple of the number of environments.
        num_envs: environments to make if `env` is an id; None for as many as divide `n_episodes`,
            at most 64.
        kl_coef: weight of the KL to the reference, reward per nat; what becomes of it is the
            subclass's decision.
        kl_target: nats an episode; adapts `kl_coef` towards it.
        kl_horizon: episodes over which the adaptation acts.
        reference: a model (see `load_lm`); None for a frozen copy of the initial policy, made if
            `kl_coef` is not 0.
        policy_kwargs: arguments of the policy; what the environment's tokenizer says is filled in.
        **kwargs: arguments of the next class in line.

    Raises:
        ValueError: an argument that cannot work, with the arithmetic and the remedy.
    """

    policy: CausalLMPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CausalLMPolicy": CausalLMPolicy}
    rollout: Rollout | None

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any,
        *,
        n_episodes: int,
        num_envs: int | None = None,
        kl_coef: float = 0.0,
        kl_target: float | None = None,
        kl_horizon: float = 10_000.0,
        reference: Any = None,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        require("n_episodes", n_episodes, n_episodes >= 1, "at least 1")
        require("kl_coef", kl_coef, kl_coef >= 0, "at least 0")
        require("kl_horizon", kl_horizon, kl_horizon > 0, "above 0")
        require("kl_target", kl_target, kl_target is None or kl_target > 0, "None or above 0")
        if kl_target is not None and kl_coef == 0:
            raise ValueError(
                f"kl_target={kl_target} adapts kl_coef by factors, and 0 stays 0: give kl_coef a "
                "start above 0, for example 0.05"
            )
        env = as_vec_env(env, num_envs, n_episodes)
        count = getattr(env, "num_envs", 1)
        if n_episodes % count:
            raise ValueError(
                f"n_episodes={n_episodes} over {count} environments is {n_episodes / count:.2f} "
                "episodes each, and must be whole, so that long episodes are not left out; nearest "
                f"n_episodes: {max(n_episodes // count, 1) * count}"
            )
        if env is not None:
            policy_kwargs = policy_kwargs_for(env, **(policy_kwargs or {}))
        self.n_episodes, self.kl_coef = n_episodes, float(kl_coef)
        self.kl_target, self.kl_horizon = kl_target, kl_horizon
        self.reference: ActionLM | None = None
        self.reference_name: str | None = None  # of a bundled model
        self._reference_source = reference
        self.pending: dict[str, Any] | None = None  # a checkpoint's state, until training goes on
        self.rollout = None
        super().__init__(
            policy, env, n_steps=n_episodes // count, policy_kwargs=policy_kwargs, **kwargs
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        source, actor = self._reference_source, self.policy.actor
        if source is not None:
            self.reference = freeze(actor.like(load_lm(source, device=self.device)[0]))
        elif self.kl_coef > 0:
            self.reference = freeze(actor)
            source = self.policy.arguments["model"]
        if self.reference is not None and isinstance(source, str) and source in BUNDLED:
            self.reference_name = source

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
        callback.on_rollout_start()
        if not cast(Any, self._last_episode_starts).all():
            self._last_obs = env.reset()  # type: ignore[assignment]

        def on_step(step: dict[str, Any]) -> bool:
            self.num_timesteps += step["n_tokens"]
            callback.update_locals(step)
            return callback.on_step()

        obs, self._last_obs = cast(Any, self._last_obs), None  # None: if it fails, reset
        collected = collect_episodes(self.policy, env, self.n_episodes, obs, on_step)
        self._last_obs = cast(Any, collected.obs)
        self._last_episode_starts = cast(Any, collected.episode_starts)
        self.rollout = collected.rollout.to(self.device)
        if not collected.complete:
            return False
        self._record_rollout(self.rollout)
        callback.update_locals({"rollout": self.rollout})
        callback.on_rollout_end()
        return True

    def _record_rollout(self, rollout: Rollout) -> None:
        """Score the roll-out under the reference and record its statistics."""
        assert self.ep_info_buffer is not None
        rewards, lengths = rollout.episode_rewards.tolist(), rollout.lengths.tolist()
        for reward, length in zip(rewards, lengths, strict=True):
            self.ep_info_buffer.append({"r": reward, "l": length, "t": 0.0})
        self._episode_num += len(rollout)
        # -log pi of what was sampled is the entropy without walking over the vocabulary again.
        self.logger.record("rollout/entropy", -masked_mean(rollout.log_probs, rollout.mask).item())
        for name, term in rollout.reward_terms.items():
            self.logger.record(f"rollout/reward_{name}", term.mean().item())
        if self.reference is not None:
            rollout.ref_log_probs = score(self.reference, rollout)
            arguments = (rollout.log_probs, rollout.ref_log_probs, rollout.mask)
            kl = kl_k1(*arguments).sum(dim=1).mean().item()
            self.logger.record("rollout/kl_ref", kl)
            self.logger.record("rollout/kl_ref_k3", kl_k3(*arguments).sum(dim=1).mean().item())
            self.logger.record("rollout/kl_coef", self.kl_coef)

    def _adapt_kl_coef(self, rollout: Rollout) -> None:
        """Move `kl_coef` towards the target; call it after the roll-out has been used."""
        if self.kl_target is not None and rollout.ref_log_probs is not None:
            k1 = kl_k1(rollout.log_probs, rollout.ref_log_probs, rollout.mask)
            kl = k1.sum(dim=1).mean().item()
            self.kl_coef = adaptive_kl_coefficient(
                self.kl_coef, kl, self.kl_target, len(rollout), self.kl_horizon
            )

    # -- glue ----------------------------------------------------------------------------------

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        """Return the callbacks as one; the progress bar counts tokens."""
        if isinstance(callback, list):
            callback = CallbackList(callback)
        if not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        if progress_bar:
            callback = CallbackList([callback, TokenProgressBar()])
        callback.init_callback(self)
        return callback

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        reset = args[1] if len(args) > 1 else kwargs.get("reset_num_timesteps", True)
        if reset:
            self.pending = None
        resume(self)
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    # -- saving --------------------------------------------------------------------------------

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Save weights, optimiser, reference, counters, generators and environment state.

        Args:
            path: a folder, or a file ending in `.zip`. It is replaced at once, never half.
            exclude: Stable-Baselines3's; not used.
            include: Stable-Baselines3's; not used.
        """
        save_algorithm(self, path)

    @classmethod
    def load(  # type: ignore[override]
        cls, path: Any, env: Any = None, device: torch.device | str = "auto", **kwargs: Any
    ) -> Self:
        """Return a saved algorithm.

        `learn(..., reset_num_timesteps=False)` then continues exactly as the saved run would have,
        if it was saved between two iterations and the environment offers `get_state`.

        Args:
            path: a folder or a `.zip` that `save` wrote.
            env: an environment like the one trained on; None if only predictions are wanted.
            device: where to put it.
            **kwargs: arguments to use instead of the saved ones.

        Raises:
            CheckpointError: a file is truncated, altered or of something else; it is named.
            FileNotFoundError: there is nothing at `path`.
        """
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


class TokenProgressBar(BaseCallback):
    """A progress bar over agent tokens, with reward and KL of the last roll-out."""

    def _on_training_start(self) -> None:
        done = self.model.num_timesteps
        total = self.locals["total_timesteps"]
        self._bar = tqdm(total=total, initial=done, unit="tok", dynamic_ncols=True)

    def _on_step(self) -> bool:
        self._bar.update(self.model.num_timesteps - self._bar.n)
        return True

    def _on_rollout_end(self) -> None:
        rollout: Rollout = self.locals["rollout"]
        shown = {"reward": f"{rollout.episode_rewards.mean().item():.3f}"}
        if rollout.ref_log_probs is not None:
            k1 = kl_k1(rollout.log_probs, rollout.ref_log_probs, rollout.mask)
            shown["kl"] = f"{k1.sum(dim=1).mean().item():.2f}"
        self._bar.set_postfix(shown)

    def _on_training_end(self) -> None:
        self._bar.close()


def require(name: str, value: object, fine: bool, accepted: str) -> None:
    """Raise a ValueError that names the argument, its value and what is accepted."""
    if not fine:
        raise ValueError(f"{name} must be {accepted}, got {value!r}")
