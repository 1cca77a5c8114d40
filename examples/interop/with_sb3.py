"""Stable-Baselines3: stock DQN and A2C, with ids read as numbers and with ids read as ids.

Run by `python examples/interop/run.py --only stable-baselines3`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from row import finish
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.evaluation import evaluate_policy

import text_envs
from agents import IdEmbedding

SEEDS = (0, 1, 2, 3, 4)
ALGORITHMS: dict[Any, dict[str, Any]] = {
    A2C: {"n_steps": 6},
    DQN: {
        "learning_rate": 1e-3, "learning_starts": 200, "train_freq": 1, "gradient_steps": 1,
        "target_update_interval": 200, "exploration_fraction": 0.5,
    },
}  # fmt: skip
# The environment, its arguments, and how many tokens are written in training.
TASKS: dict[str, tuple[dict[str, Any], int]] = {
    "Toy-v0": ({}, 4_000),
    "TargetWords-v0": ({"max_tokens": 2, "words": 6}, 6_000),
}


def train(algorithm: Any, task: str, seed: int, **kwargs: Any) -> float:
    """Train a stock algorithm; return the mean return of its greedy policy."""
    arguments, steps = TASKS[task]
    venv = text_envs.make_sb3(f"text_envs/{task}", num_envs=8, seed=seed, **arguments)
    policy_kwargs = IdEmbedding.policy_kwargs(venv, **kwargs) if kwargs else {}
    agent = algorithm(
        "MlpPolicy", venv, gamma=1.0, seed=seed, policy_kwargs=policy_kwargs,
        **ALGORITHMS[algorithm],
    ).learn(steps)  # fmt: skip
    return float(evaluate_policy(agent, venv, n_eval_episodes=200)[0])


def main() -> None:
    """Compare the three ways to read an observation, over seeds."""
    torch.set_num_threads(1)
    cells = []
    for task in TASKS:
        for algorithm in ALGORITHMS:
            means = {}
            for name, kwargs in (
                ("numbers", {}),
                ("ids", {"network": "flatten"}),
                ("ids, GRU", {"network": "gru"}),
            ):
                returns = [train(algorithm, task, seed, **kwargs) for seed in SEEDS]
                means[name] = f"{np.mean(returns):.2f} ± {np.std(returns, ddof=1):.2f}"
            words = ", ".join(f"{name} {value}" for name, value in means.items())
            given = ", ".join(f"{name}={value}" for name, value in TASKS[task][0].items())
            label = f"{task} ({given})" if given else task
            cells.append(f"{algorithm.__name__} on {label}: {words}")
    ran = ("DQN", "A2C", "`MlpPolicy` alone and with `IdEmbedding`")
    finish("stable-baselines3", ran, "; ".join(cells) + f" ({len(SEEDS)} seeds, ± sd)", SEEDS)


if __name__ == "__main__":
    main()
