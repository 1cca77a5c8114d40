"""Gymnasium: the contract of several ids, and every way to make them.

    python examples/interop/run.py --only gymnasium gymnasium-1.2 gymnasium-1.0

numpy and Gymnasium are all that is installed here.
"""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
from row import finish

import text_envs  # noqa: F401 - registers the ids

IDS = ("Toy-v0", "Reviews-v0", "Maze-v0", "Wordle-v0", "WordSorting-v0", "WordSortingGoal-v0")


def play(env_id: str) -> None:
    """Play random tokens in a single environment, behind Gymnasium's own wrapper."""
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(env_id))
    env.reset(seed=0)
    env.action_space.seed(0)
    over = False
    while not over:
        observation, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        over = terminated or truncated
    assert info["episode"]["l"] >= 1 and info["finish_reason"]


def play_batch(env_id: str, mode: str) -> None:
    """Play random tokens in a vector environment; the native one is a `vector_entry_point`."""
    envs = gym.make_vec(env_id, num_envs=3, vectorization_mode=mode)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(100):
        observations, rewards, _, _, _ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(observations) and np.isfinite(rewards).all()
    envs.close()


def main() -> None:
    """Run the contract as a command, then make each id in each way."""
    for name in IDS:
        subprocess.run(
            [sys.executable, "-m", "text_envs", "check", name], check=True, stdout=sys.stderr
        )
        play(f"text_envs/{name}")
        for mode in ("vector_entry_point", "sync"):
            play_batch(f"text_envs/{name}", mode)
    ran = ("`python -m text_envs check`", "`make`", "`make_vec` native and sync", "statistics")
    finish("gymnasium", ran, f"the contract holds on {len(IDS)} ids: {', '.join(IDS)}")


if __name__ == "__main__":
    main()
