"""Playing test episodes: texts, rewards, values and KL of a policy, and rows for an HTML page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from agents.losses.on_policy import kl_k1
from agents.rollouts.episodes import collect_episodes, score
from agents.rollouts.rollout import Rollout
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.choosing import sampling_as
from text_envs.render.pages import TokenRow
from text_envs.tokens.protocol import Tokenizer

__all__ = ["Evaluation", "evaluate_texts", "mean_and_interval"]


def mean_and_interval(values: Any) -> tuple[float, float]:
    """Return the mean and the half width of its normal 95% interval.

    Args:
        values: `(B,)` independent numbers; with fewer than two the interval is NaN.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2:
        return float(numbers.mean()), float("nan")
    return float(numbers.mean()), float(1.96 * numbers.std(ddof=1) / np.sqrt(len(numbers)))


@dataclass(frozen=True)
class Evaluation:
    """Episodes that were played to look at a policy.

    Attributes:
        rollout: the B episodes.
        prompts: their prompts as text.
        texts: what was written, as text.
        kl: `(B,)` log-ratio of policy to reference summed over the actions, nats; its mean
            estimates the KL of whole texts. Zeros without a reference.
        tokenizer: decodes single tokens.
    """

    rollout: Rollout
    prompts: list[str]
    texts: list[str]
    kl: NDArray[np.float64]
    tokenizer: Tokenizer

    @property
    def rewards(self) -> NDArray[np.float64]:
        """Sum of rewards of each episode, `(B,)`."""
        rewards: NDArray[np.float64] = self.rollout.episode_rewards.double().cpu().numpy()
        return rewards

    def token_rows(
        self, count: int, token_reward: Callable[[NDArray[np.int64]], NDArray[Any]] | None = None
    ) -> list[TokenRow]:
        """Return the first `count` episodes as lines of a page.

        Args:
            count: how many.
            token_reward: what each token of `(T,)` contributes to the reward; without it the
                reward is shown where the environment paid it.
        """
        rollout, rows = self.rollout, []
        for b in range(min(count, len(rollout))):
            length = int(rollout.lengths[b])
            actions = rollout.actions[b, :length].cpu().numpy()
            paid = rollout.rewards[b, :length].tolist()
            scores = {
                "reward": paid if token_reward is None else token_reward(actions).tolist(),
                "value": rollout.values[b, :length].tolist(),
            }
            if rollout.ref_log_probs is not None:
                log_ratio = rollout.log_probs[b, :length] - rollout.ref_log_probs[b, :length]
                scores["KL"] = log_ratio.tolist()
            words = [self.tokenizer.decode([token]) or "\u25a0" for token in actions.tolist()]
            caption = f"reward {self.rewards[b]:.2f}, KL {self.kl[b]:.1f}"
            rows.append(TokenRow(self.prompts[b], words, scores, caption))
        return rows


def evaluate_texts(
    policy: Any,
    env: VecEnv,
    n_episodes: int,
    *,
    seed: int = 0,
    reference: ActionLM | None = None,
    **sampling: Any,
) -> Evaluation:
    """Play `n_episodes` episodes; with the same seed, two policies get the same prompts.

    Args:
        policy: a `CausalLMPolicy`.
        env: a vector of text environments, used for nothing else meanwhile.
        n_episodes: a multiple of `env.num_envs`.
        seed: of the environments and of the sampling; torch's own generator is left as it was.
        reference: scores the same texts, for the KL.
        **sampling: settings in place of the policy's, and the reference's: `temperature`, `top_k`,
            ..., see `text_envs.lm.sampling`.
    """
    models = (policy,) if reference is None else (policy, reference)
    with sampling_as(*models, **sampling):
        return _evaluate(policy, env, n_episodes, seed, reference)


def _evaluate(
    policy: Any, env: VecEnv, n_episodes: int, seed: int, reference: ActionLM | None
) -> Evaluation:
    tokenizer: Tokenizer = env.get_attr("tokenizer")[0]
    prompt_length = int(env.get_attr("task")[0].prompt_length)
    env.seed(seed)
    policy.set_training_mode(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rollout = collect_episodes(policy, env, n_episodes, env.reset()).rollout  # type: ignore[arg-type]
    rollout = rollout.to(policy.device)
    kl = np.zeros(len(rollout))
    if reference is not None:
        rollout.ref_log_probs = score(reference, rollout)
        ratios = kl_k1(rollout.log_probs, rollout.ref_log_probs, rollout.mask)
        kl = ratios.sum(dim=1).double().cpu().numpy()
    return Evaluation(
        rollout=rollout,
        prompts=[tokenizer.decode(row) for row in rollout.tokens[:, :prompt_length].tolist()],
        texts=[info["text"] for info in rollout.infos],
        kl=kl,
        tokenizer=tokenizer,
    )
