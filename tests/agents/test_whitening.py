"""Whitened components: equal weights whatever their units, paid with the last action."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback

import text_envs
from agents import PPO, RLOO, WhitenRewards
from text_envs.rewards import Calibrated, resolve, whiten_components

SUMS = {"tiny": [0.001, "length"], "huge": [-1000.0, "length"]}


class Keep(BaseCallback):
    """Keeps what was paid in each roll-out, and the lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.paid: list[torch.Tensor] = []
        self.rollouts: list[Any] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.rollouts.append(self.locals["rollout"])
        self.paid.append(self.locals["rollout"].rewards.clone())


def learn(algorithm: Any, reward: Any, callback: Any, env: str = "text_envs/Toy-v0") -> Any:
    agent = algorithm(
        "CausalLMPolicy", text_envs.make_sb3(env, num_envs=16, reward=reward), n_episodes=32,
        policy_kwargs={"model": "scratch"}, seed=0, device="cpu",
        **({"batch_size": 32} if algorithm is PPO else {}),
    )  # fmt: skip
    return agent.learn(1, callback)


@pytest.mark.parametrize("algorithm", [PPO, RLOO])
def test_the_last_action_is_paid_the_sum_of_whitened_components(algorithm: Any) -> None:
    kept = Keep()
    learn(algorithm, resolve(SUMS), [WhitenRewards(), kept])
    rollout, paid = kept.rollouts[0], kept.paid[0]
    terms = np.stack([term.numpy() for term in rollout.reward_terms.values()], axis=1)
    assert terms.shape == (32, 2) and terms.std() > 1
    np.testing.assert_allclose(
        paid.sum(dim=1).numpy(), whiten_components(terms).sum(axis=1), atol=1e-5
    )
    rows = torch.arange(32)
    before = paid.clone()
    before[rows, rollout.lengths - 1] = 0.0
    assert not before.any()


def test_units_drop_out() -> None:
    kept = [Keep(), Keep()]
    for one, scale in zip(kept, (1.0, 250.0), strict=True):
        learn(PPO, resolve({"a": [scale, "length"]}), [WhitenRewards(), one])
    assert torch.allclose(kept[0].paid[0], kept[1].paid[0], atol=1e-4)


def test_some_components_only() -> None:
    kept = Keep()
    learn(PPO, resolve(SUMS), [WhitenRewards(["huge"]), kept])
    huge = kept.rollouts[0].reward_terms["huge"].numpy()
    np.testing.assert_allclose(
        kept.paid[0].sum(dim=1).numpy(), whiten_components(huge), atol=1e-5
    )  # fmt: skip


def test_calibrated_rewards_of_two_kinds() -> None:
    reward = Calibrated(["preference", {"reward": "length"}])
    kept = Keep()
    learn(PPO, reward, [WhitenRewards(), kept], "text_envs/Summarization-v0")
    assert len(kept.rollouts[0].reward_terms) == 2
    assert abs(kept.paid[0].sum().item()) < 1e-2  # each component has mean 0


def test_bad_use() -> None:
    with pytest.raises(ValueError, match="no component 'style'; it has \\['tiny', 'huge'\\]"):
        learn(PPO, resolve(SUMS), WhitenRewards(["style"]))
    for terms in ("huge", []):
        with pytest.raises(ValueError, match="terms must be None or names"):
            WhitenRewards(terms)
    stock = stable_baselines3.PPO("MlpPolicy", "text_envs/Toy-v0", n_steps=8, batch_size=8)
    with pytest.raises(TypeError, match="PPO has no roll-out of whole episodes"):
        stock.learn(8, WhitenRewards())
