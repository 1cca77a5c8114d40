"""Tianshou: DQN to the best return of Toy-v0.

python examples/interop/run.py --only tianshou
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from row import finish, optimum
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from torch import nn

import text_envs  # noqa: F401 - registers the ids

SEEDS = (0, 1, 2)


class Values(nn.Module):
    """Values of all tokens over embedded ids: int64 observations are no numbers."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__()
        box, width = env.observation_space, 16
        self.layers = nn.Sequential(
            nn.Embedding(int(box.high.max()) + 1, width), nn.Flatten(),
            nn.Linear(width * box.shape[0], 64), nn.ReLU(), nn.Linear(64, env.action_space.n),
        )  # fmt: skip

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[torch.Tensor, Any]:
        """Return values `(N, A)` of ids `(N, L)`, and the state of a recurrent net: none."""
        return self.layers(torch.as_tensor(obs).long()), state


def make() -> gym.Env:
    """Return the environment."""
    return gym.make("text_envs/Toy-v0")


def train(seed: int) -> float:
    """Train DQN; return the greedy policy's mean return."""
    torch.manual_seed(seed)
    env = make()
    training, test = DummyVectorEnv([make] * 8), DummyVectorEnv([make] * 2)
    training.seed(seed)
    policy = DiscreteQLearningPolicy(
        model=Values(env), action_space=env.action_space, eps_training=0.3
    )
    dqn = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=1.0, target_update_freq=50)
    buffer = VectorReplayBuffer(4_000, len(training))
    explore = Collector(dqn, training, buffer, exploration_noise=True)
    explore.reset()
    collector = Collector(dqn, test)
    dqn.run_training(
        OffPolicyTrainerParams(
            training_collector=explore, test_collector=collector, max_epochs=3,
            epoch_num_steps=1_000, collection_step_num_env_steps=8,
            update_step_num_gradient_steps_per_sample=0.125, batch_size=64,
            test_step_num_episodes=2, show_progress=False, verbose=False,
        )
    )  # fmt: skip
    collector.reset()
    return float(collector.collect(n_episode=10).returns_stat.mean)


if __name__ == "__main__":
    torch.set_num_threads(1)
    finish(
        "tianshou", ("`DummyVectorEnv`", "DQN"), optimum([train(s) for s in SEEDS], "DQN"), SEEDS
    )
