"""Minari: its `DataCollector` records episodes, infos included, and reads them back.

    python examples/interop/run.py --only minari

`text_envs.datasets.to_minari` writes what this suite recorded; here Minari records by itself.
"""

from __future__ import annotations

import os
import tempfile

import gymnasium as gym
import minari
import numpy as np
from row import finish

import text_envs  # noqa: F401 - registers the ids

IDS = ("Toy-v0", "Reviews-v0", "Maze-v0", "WordSortingGoal-v0")


def record(env_id: str, episodes: int = 10) -> int:
    """Record random play with its infos; return how many steps came back as they were."""
    env = minari.DataCollector(gym.make(env_id), record_infos=True)
    env.action_space.seed(0)
    returns = []
    for episode in range(episodes):
        env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    name = f"text/{env_id.split('/')[1].lower().replace('-v', '-random-v')}"
    env.create_dataset(name, algorithm_name="random", author="text_envs", description="random")
    dataset = minari.load_dataset(name)
    played = list(dataset.iterate_episodes())
    assert np.allclose([episode.rewards.sum() for episode in played], returns)
    for episode in played:
        assert {"example_index", "finish_reason", "text", "reward_terms"} <= set(episode.infos)
        assert len(episode.infos["finish_reason"]) == len(episode.actions) + 1  # the reset's too
    assert dataset.recover_environment().spec.id == env_id
    return int(dataset.total_steps)


def main() -> None:
    """Record every id in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        steps = {name: record(f"text_envs/{name}") for name in IDS}
    ran = ("`DataCollector(record_infos=True)`", "`load_dataset`", "`recover_environment`")
    finish("minari", ran, "read back: " + ", ".join(f"{n} {s} steps" for n, s in steps.items()))


if __name__ == "__main__":
    main()
