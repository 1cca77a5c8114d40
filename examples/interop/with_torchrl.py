"""TorchRL: its checks of specs, a collector, and DQN's values learnt from what it collects.

python examples/interop/run.py --only torchrl
"""

from __future__ import annotations

import torch
from row import finish, optimum
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, Unbounded
from torchrl.envs import (
    GymEnv,
    RewardSum,
    TransformedEnv,
    check_env_specs,
    default_info_dict_reader,
)
from torchrl.modules import EGreedyModule, QValueModule
from torchrl.objectives import DQNLoss, SoftUpdate

import text_envs

SEEDS = (0, 1, 2)


def q_network(env: GymEnv) -> TensorDictSequential:
    """Return greedy values over embedded ids: int64 observations are no numbers."""
    width, spec = 16, env.observation_spec["observation"]
    body = nn.Sequential(
        nn.Embedding(int(spec.space.high.max()) + 1, width), nn.Flatten(-2),
        nn.Linear(width * spec.shape[-1], 64), nn.ReLU(), nn.Linear(64, env.action_spec.n),
    )  # fmt: skip
    values = TensorDictModule(body, in_keys=["observation"], out_keys=["action_value"])
    return TensorDictSequential(values, QValueModule(spec=env.action_spec))


def train(seed: int, frames: int = 3_000) -> float:
    """Train DQN on Toy-v0; return the greedy policy's return."""
    torch.manual_seed(seed)

    def make() -> TransformedEnv:
        env = GymEnv("text_envs/Toy-v0", categorical_action_encoding=True)
        return TransformedEnv(env, RewardSum())

    env = make()
    env.set_seed(seed)
    policy = q_network(env)
    explore = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.1, annealing_num_steps=frames)
    collector = Collector(
        make, TensorDictSequential(policy, explore), frames_per_batch=60, total_frames=frames,
        auto_register_policy_transforms=True,
    )  # fmt: skip
    buffer = ReplayBuffer(storage=LazyTensorStorage(frames), batch_size=64)
    loss = DQNLoss(policy, action_space=env.action_spec, delay_value=True)
    loss.make_value_estimator(gamma=1.0)
    target, optimizer = SoftUpdate(loss, eps=0.95), torch.optim.Adam(policy.parameters(), 1e-3)
    for batch in collector:  # of 60 steps
        buffer.extend(batch.reshape(-1))
        explore.step(batch.numel())
        for _ in range(10):
            optimizer.zero_grad()
            loss(buffer.sample())["loss"].backward()
            optimizer.step()
            target.step()
    collector.shutdown()
    with torch.no_grad():
        return float(env.rollout(10, policy)["next", "episode_reward"][-1])


def main() -> None:
    """Check several ids, then train."""
    torch.set_num_threads(1)
    ids = ("Toy-v0", "Reviews-v0", "Maze-v0", "WordSortingGoal-v0")
    assert {f"text_envs/{name}" for name in ids} <= set(text_envs.list_ids())
    for name in ids:
        for categorical in (False, True):  # actions as one-hot vectors, or as numbers
            env = GymEnv(f"text_envs/{name}", categorical_action_encoding=categorical)
            check_env_specs(env)
    text = GymEnv("text_envs/Toy-v0", device="cpu")
    number = Unbounded((), dtype=torch.int64)  # infos become keys of the tensordict if asked for
    text.set_info_dict_reader(default_info_dict_reader(["example_index"], spec=[number]))
    check_env_specs(text)
    ran = ("`GymEnv`", f"`check_env_specs` on {len(ids)} ids", "info reader", "collector", "DQN")
    finish("torchrl", ran, optimum([train(seed) for seed in SEEDS], "DQN"), SEEDS)


if __name__ == "__main__":
    main()
