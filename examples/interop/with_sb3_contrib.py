"""sb3-contrib: MaskablePPO and QRDQN to the best return of Toy-v0, ids read as ids.

    python examples/interop/run.py --only sb3-contrib

`IdEmbedding` gives a stock `MlpPolicy` a vector for each id; without it ids are read as numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from row import finish, optimum
from sb3_contrib import QRDQN, MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3.common.evaluation import evaluate_policy

import text_envs
from agents import IdEmbedding

SEEDS = (0, 1, 2)


def masked_ppo(seed: int) -> float:
    """Train MaskablePPO; return the greedy policy's mean return."""
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8, seed=seed)
    agent = MaskablePPO(
        "MlpPolicy", venv, learning_rate=1e-3, n_steps=24, ent_coef=0.02, gamma=1.0, seed=seed,
        policy_kwargs=IdEmbedding.policy_kwargs(venv),
    )  # fmt: skip
    return mean(evaluate_masked(agent.learn(6_000), venv, n_eval_episodes=16))


def qrdqn(seed: int) -> float:
    """Train QRDQN; return the greedy policy's mean return."""
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8, seed=seed)
    agent = QRDQN(
        "MlpPolicy", venv, learning_rate=1e-3, learning_starts=200, train_freq=1, batch_size=64,
        target_update_interval=200, exploration_fraction=0.5, gamma=1.0, seed=seed,
        policy_kwargs={"n_quantiles": 25, **IdEmbedding.policy_kwargs(venv)},
    )  # fmt: skip
    return mean(evaluate_policy(agent.learn(6_000), venv, n_eval_episodes=16))


def mean(result: tuple[Any, Any]) -> float:
    """Return the mean of what `evaluate_policy` returns, a mean and a deviation."""
    return float(result[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = [
        optimum([train(seed) for seed in SEEDS], name)
        for name, train in (("MaskablePPO", masked_ppo), ("QRDQN", qrdqn))
    ]
    finish("sb3-contrib", ("MaskablePPO", "QRDQN", "`IdEmbedding`"), "; ".join(results), SEEDS)
