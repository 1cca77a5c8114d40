"""Jobs of the study on KL control: training on Toy-v0 and Reviews-v0, and what came of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

import text_envs
from agents import DPG, PPO, RLOO, evaluate_texts, load_lm
from agents.losses.distributional import effective_sample_size
from agents.rollouts.evaluation import Evaluation
from text_envs import exact
from text_envs.lm.scratch import make_iid_lm
from text_envs.rewards.metrics import distinct_n, self_bleu

TOY, REVIEWS = "text_envs/Toy-v0", "text_envs/Reviews-v0"
TOY_PRIOR = (0.5, 0.3, 0.2)  # of a, b and the end: the instance of the golden numbers
PROMPTS = 32  # of Reviews-v0 on which policies are compared with the posterior


def _algorithm(method: str, beta: float, **kwargs: Any) -> Any:
    if method == "DPG":
        return DPG("CausalLMPolicy", beta=beta, **kwargs)
    if method == "RLOO":
        return RLOO("CausalLMPolicy", kl_coef=beta, **kwargs)
    return PPO("CausalLMPolicy", kl_coef=beta, **kwargs)


# -- Toy-v0, where everything is known ----------------------------------------------------------


def toy_reference() -> Any:
    """Return a small language model whose tokens are independent draws from `TOY_PRIOR`."""
    return make_iid_lm(TOY, TOY_PRIOR)


class _ExactCurve(BaseCallback):
    """Evaluates the policy exactly before some of the iterations."""

    def __init__(self, beta: float, tokens: int) -> None:
        super().__init__()
        self.beta, self.every = beta, tokens // 30
        self.points: list[dict[str, float]] = []
        self.reference = toy_reference()

    def _on_step(self) -> bool:
        return True

    def look(self) -> dict[str, float]:
        """Return where the policy is now."""
        found = exact.evaluate(
            TOY, self.model.policy, reference=self.reference, beta=self.beta or None
        )
        point = {
            "tokens": self.num_timesteps,
            "reward": found.mean_return,
            "entropy": found.entropy,
            "kl_prior": found.kl_reference,
            "kl_pi_p": found.reverse_kl,
            "kl_p_pi": found.forward_kl,
        }
        return {name: value for name, value in point.items() if value is not None}

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= len(self.points) * self.every:
            self.points.append(self.look())


def toy(
    folder: Path, task: str, method: str, beta: float, seed: int, tokens: int
) -> dict[str, Any]:
    """Train on Toy-v0 with 256 texts an iteration and evaluate exactly."""
    kwargs: dict[str, Any] = {"batch_size": 256, "gae_lambda": 1.0} if method == "PPO" else {}
    # Falling to 0: at the end nothing of the noise of sampling is left but what cannot be avoided.
    agent = _algorithm(
        method, beta, env=TOY, n_episodes=256, num_envs=64, seed=seed, device="cpu",
        learning_rate=lambda progress: 1e-2 * progress,
        policy_kwargs={"model": toy_reference()}, **kwargs,
    )  # fmt: skip
    curve = _ExactCurve(beta, tokens)
    agent.learn(tokens, curve)
    return {**curve.look(), "curve": curve.points}


# -- Reviews-v0, where the posterior is estimated -----------------------------------------------


def prior_samples(folder: Path, task: str, per_prompt: int, seed: int) -> dict[str, Any]:
    """Sample the bundled model on the test prompts; its rewards give Z(c) for every beta."""
    policy = PPO("CausalLMPolicy", _reviews(PROMPTS), seed=seed, device="cpu").policy
    rounds = [_play(policy, seed=1000 + k) for k in range(per_prompt)]
    np.savez(
        folder / "prior.npz",
        tokens=np.stack([r.rollout.tokens.numpy() for r in rounds]),  # (k, prompts, L)
        rewards=np.stack([r.rewards for r in rounds]),  # (k, prompts)
    )
    return {"texts": per_prompt * PROMPTS}


def reviews(
    folder: Path,
    task: str,
    method: str,
    beta: float,
    seed: int,
    tokens: int,
    learning_rate: float,
    prior: str,
) -> dict[str, Any]:
    """Train on Reviews-v0 and compare with the model it started from, and with the posterior."""
    own: dict[str, Any] = {}
    if method == "DPG":
        own = {"n_episodes": 128, "group_size": 32, "num_envs": 128, "batch_size": 16}
    elif method == "RLOO":
        own = {"batch_size": 16}
    # Falling to 0: at a constant rate, noise alone keeps the policy some tenths of a nat away.
    agent = _algorithm(
        method, beta, env=REVIEWS, seed=seed, device="cpu",
        learning_rate=lambda progress: learning_rate * progress, **own,
    )  # fmt: skip
    if method != "initial model":
        agent.learn(tokens)
    reference = agent.policy.actor.like(load_lm("reviews")[0])
    wide = evaluate_texts(
        agent.policy, text_envs.make_sb3(REVIEWS, num_envs=64, split="test"), 512,
        seed=0, reference=reference,
    )  # fmt: skip
    (folder / "texts.json").write_text(json.dumps(wide.texts[:64], indent=1), encoding="utf-8")
    row = _on_texts(wide)
    if beta > 0:
        row |= _against_posterior(agent.policy, reference, beta, Path(prior))
    return row


def _reviews(num_envs: int) -> Any:
    return text_envs.make_sb3(REVIEWS, num_envs=num_envs, split="test")


def _play(policy: Any, seed: int, reference: Any = None) -> Evaluation:
    """Play one text of each of the first `PROMPTS` test prompts."""
    env = _reviews(PROMPTS)
    env.set_options([{"index": index} for index in range(PROMPTS)])
    return evaluate_texts(policy, env, PROMPTS, seed=seed, reference=reference)


def _on_texts(evaluation: Evaluation) -> dict[str, Any]:
    rollout = evaluation.rollout
    log_probs = (rollout.log_probs * rollout.mask).sum(dim=1)
    texts = [text for text in evaluation.texts if text.strip()]
    return {
        "reward": float(evaluation.rewards.mean()),
        "kl_prior": float(evaluation.kl.mean()),
        "entropy": float(-log_probs.mean()),
        "length": float(rollout.lengths.float().mean()),
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)},
        "self_bleu": self_bleu(texts[:128]),
    }


def _against_posterior(policy: Any, reference: Any, beta: float, prior: Path) -> dict[str, Any]:
    r"""Estimate KL(pi||p*) and KL(p*||pi), means over the prompts.

    $KL(\pi \| p^*) = E_\pi[\log \pi - \log \pi_0 - r / \beta] + \log Z$ from texts of the
    policy; log Z and, self-normalised, KL(p*||pi) from texts of the model it started from. `ess` is
    how many of those count: where it is small, the two are too.
    """
    with np.load(prior) as saved:
        tokens, rewards = saved["tokens"], saved["rewards"]
    log_w = torch.from_numpy(rewards / beta)  # (k, prompts)
    log_z = log_w.logsumexp(dim=0) - math.log(len(log_w))  # (prompts,)
    rounds = [_play(policy, seed=2000 + k, reference=reference) for k in range(16)]
    gap = np.stack([r.kl - r.rewards / beta for r in rounds])  # (16, prompts)
    share = log_w.softmax(dim=0)
    log_ratio = _log_prior_over_policy(policy, reference, tokens)  # (k, prompts)
    forward = (share * (log_ratio + log_w)).sum(dim=0) - log_z
    return {
        "kl_pi_p": float(gap.mean() + log_z.mean()),
        "kl_p_pi": float(forward.mean()),
        "ess": float(np.mean([effective_sample_size(w) * len(w) for w in log_w.T])),
        "log_z": float(log_z.mean()),
    }


@torch.no_grad()
def _log_prior_over_policy(policy: Any, reference: Any, tokens: Any) -> torch.Tensor:
    """Return log pi0 - log pi of whole texts `(k, prompts, L)`, `(k, prompts)`."""
    task = _reviews(1).get_attr("task")[0]
    flat = torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]))
    written = flat[:, task.prompt_length :]
    mask = written != task.tokenizer.pad_id
    columns = torch.arange(task.prompt_length - 1, flat.shape[1] - 1).expand(mask.shape)
    ratios = []
    for index in torch.arange(len(flat)).split(256):
        longest = int(mask[index].sum(dim=1).max())
        which, at = mask[index, :longest], columns[index, :longest]
        totals = []
        for actor in (reference, policy.actor):
            hidden = actor.encode(flat[index], at, which)
            found, _ = actor.log_probs(hidden, written[index, :longest][which])
            totals.append(torch.zeros(which.shape).masked_scatter(which, found).double().sum(1))
        ratios.append(totals[0] - totals[1])
    return torch.cat(ratios).reshape(tokens.shape[:2])
