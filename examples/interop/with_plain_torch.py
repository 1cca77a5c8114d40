"""PPO in one file, after CleanRL: plain torch, no library of algorithms.

python examples/interop/run.py --only cleanrl-style
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from row import finish, optimum
from torch import nn
from torch.distributions import Categorical

import text_envs  # noqa: F401 - registers the ids

SEEDS = (0, 1, 2)
NUM_ENVS, NUM_STEPS, ITERATIONS = 16, 12, 60
GAMMA, LAMBDA, CLIP, ENTROPY, EPOCHS, MINIBATCH = 1.0, 0.95, 0.2, 0.01, 4, 48


class Agent(nn.Module):
    """Policy and value over embedded ids."""

    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        super().__init__()
        box, width = envs.single_observation_space, 16
        self.body = nn.Sequential(
            nn.Embedding(int(box.high.max()) + 1, width), nn.Flatten(),
            nn.Linear(width * box.shape[0], 64), nn.Tanh(),
        )  # fmt: skip
        self.actor, self.critic = nn.Linear(64, envs.single_action_space.n), nn.Linear(64, 1)

    def forward(self, ids: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        """Return the policy and the values `(N,)` of ids `(N, L)`."""
        hidden = self.body(ids)
        return Categorical(logits=self.actor(hidden)), self.critic(hidden).squeeze(1)


def train(seed: int) -> float:
    """Train on Toy-v0; return the greedy policy's return."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    # A row that ends starts again in the same step, so every step is one of an episode.
    envs = gym.make_vec("text_envs/Toy-v0", num_envs=NUM_ENVS, autoreset_mode="SAME_STEP")
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3, eps=1e-5)
    ids = torch.tensor(envs.reset(seed=seed)[0])  # (N, L)
    for _ in range(ITERATIONS):
        steps = []
        for _ in range(NUM_STEPS):
            with torch.no_grad():
                policy, value = agent(ids)
            action = policy.sample()
            following, reward, terminated, truncated, _ = envs.step(action.numpy())
            # `terminated` covers the limit of the text; only an outer limit would need a bootstrap.
            over = torch.tensor(terminated | truncated)
            reward = torch.tensor(reward, dtype=torch.float32)
            steps.append((ids, action, policy.log_prob(action), value, reward, over))
            ids = torch.tensor(following)
        columns = [torch.stack(column) for column in zip(*steps, strict=True)]  # (T, N, ...)
        obs, actions, log_probs, values, rewards, dones = columns
        with torch.no_grad():
            next_value, last = agent(ids)[1], torch.zeros(NUM_ENVS)
        advantages = torch.zeros_like(rewards)
        for t in reversed(range(NUM_STEPS)):
            goes_on = (~dones[t]).float()
            delta = rewards[t] + GAMMA * next_value * goes_on - values[t]
            last = delta + GAMMA * LAMBDA * goes_on * last
            advantages[t], next_value = last, values[t]
        data = [x.flatten(0, 1) for x in (obs, actions, log_probs, advantages, advantages + values)]
        for _ in range(EPOCHS):
            for rows in np.split(rng.permutation(len(data[0])), len(data[0]) // MINIBATCH):
                ids_b, actions_b, old, advantage, target = (x[rows] for x in data)
                policy, value = agent(ids_b)
                ratio = (policy.log_prob(actions_b) - old).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
                loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                loss = loss + 0.5 * (value - target).square().mean()
                loss = loss - ENTROPY * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    env = gym.make("text_envs/Toy-v0")
    (observation, _), total, over = env.reset(seed=seed), 0.0, False
    while not over:
        action = agent(torch.tensor(observation)[None])[0].probs.argmax().item()
        observation, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    torch.set_num_threads(1)
    finish("torch", ("PPO in one file",), optimum([train(seed) for seed in SEEDS], "PPO"), SEEDS)
