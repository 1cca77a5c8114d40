"""RLlib: PPO to the best return of Toy-v0.

python examples/interop/run.py --only rllib
"""

from __future__ import annotations

import logging
from typing import Any

import gymnasium as gym
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env
from row import finish, optimum
from torch import nn

import text_envs  # noqa: F401 - registers the ids

SEEDS = (0, 1, 2)


class Embedded(TorchRLModule, ValueFunctionAPI):
    """Policy and value over embedded ids: int64 observations are no numbers."""

    def setup(self) -> None:
        """Build the layers from the spaces."""
        box, width = self.observation_space, 16
        self.body = nn.Sequential(
            nn.Embedding(int(box.high.max()) + 1, width), nn.Flatten(),
            nn.Linear(width * box.shape[0], 64), nn.Tanh(),
        )  # fmt: skip
        self.actor, self.critic = nn.Linear(64, self.action_space.n), nn.Linear(64, 1)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        hidden = self.body(batch[Columns.OBS].long())
        return {Columns.ACTION_DIST_INPUTS: self.actor(hidden), Columns.EMBEDDINGS: hidden}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Return values `(N,)`."""
        hidden = self.body(batch[Columns.OBS].long()) if embeddings is None else embeddings
        return self.critic(hidden).squeeze(-1)


def make(config: Any = None) -> gym.Env:
    """Return the environment; RLlib hands over what its own configuration says."""
    return gym.make("text_envs/Toy-v0")


def train(seed: int) -> float:
    """Train PPO; return the greedy policy's return."""
    config = (
        PPOConfig()
        .environment("toy")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=Embedded))
        .training(
            lr=3e-3, gamma=1.0, train_batch_size=192, minibatch_size=64, num_epochs=4,
            entropy_coeff=0.01,
        )
        .debugging(seed=seed, log_level="ERROR")
    )  # fmt: skip
    algorithm = config.build_algo()
    for _ in range(60):
        algorithm.train()
    module, env = algorithm.get_module(), make()
    (ids, _), total, over = env.reset(seed=seed), 0.0, False
    while not over:
        scores = module.forward_inference({Columns.OBS: torch.tensor(ids)[None]})
        action = scores[Columns.ACTION_DIST_INPUTS].argmax().item()
        ids, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    algorithm.stop()
    return total


if __name__ == "__main__":
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    register_env("toy", make)
    result = optimum([train(seed) for seed in SEEDS], "PPO")
    ray.shutdown()
    finish("ray", ("`register_env`", "PPO"), result, SEEDS)
