"""Part `recorded`: what recording episodes costs, and what a token of them costs on disk.

    python -m benchmarks.recorded [--quick]     # in the folder examples; under a minute

"collect" is compared with the steps alone, of the same environment with the same random actions:
`TokenVectorEnv.step` in a loop that keeps nothing. Then each recipe is written to a file and read
again: bytes for a written token (with its role and its reward), tokens a second of `save` and of
`load`, and how often the file's bytes go into the arrays that it stands for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import text_envs  # noqa: F401 - registers the ids
from benchmarks.measure import Contender, Row, compare, interleave
from text_envs.datasets import EpisodeDataset, collect, load, recipe
from text_envs.episodes.types import Role

__all__ = ["measure", "measure_files"]

NUM_ENVS = 64
IDS = ("text_envs/Reviews-v0", "text_envs/Wordle-v0", "text_envs/Maze-v0")
RECIPES = (
    "wordle-mixed",
    "wordle-adversarial",
    "maze",
    "maze-walks",
    "visual-dialogue",
    "comments",
)


def measure(quick: bool, seed: int) -> list[Row]:
    """Return one comparison of `collect` with the steps alone for each of `IDS`."""
    rows = []
    for env_id in IDS:
        episodes = NUM_ENVS * (1 if quick else 8)
        contenders = {"collect": _collecting(env_id, episodes, seed), "step": _steps(env_id, seed)}
        speeds = interleave(contenders, 3 if quick else 9)
        case = f"{env_id.partition('/')[2]}, {NUM_ENVS} rows"
        rows.append(compare(speeds, "collect", "step", part="recorded", case=case, unit="tokens/s"))
    return rows


def _random(actions: int, seed: int) -> Callable[[Any], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return lambda obs: rng.integers(actions, size=len(obs))


def _collecting(env_id: str, episodes: int, seed: int) -> Contender:
    env: Any = gym.make_vec(env_id, NUM_ENVS, "vector_entry_point").unwrapped
    policy = _random(env.tokenizer.num_actions, seed)

    def work() -> float:
        start = time.perf_counter()
        data = collect(env, policy, episodes, seed=seed)
        return data.num_steps / (time.perf_counter() - start)

    return work


def _steps(env_id: str, seed: int, steps: int = 200) -> Contender:
    env: Any = gym.make_vec(
        env_id, NUM_ENVS, "vector_entry_point", autoreset_mode="SAME_STEP"
    ).unwrapped
    policy = _random(env.tokenizer.num_actions, seed)
    obs, _ = env.reset(seed=seed)

    def work() -> float:
        last = obs
        start = time.perf_counter()
        for _ in range(steps):
            last = env.step(policy(last))[0]
        return steps * NUM_ENVS / (time.perf_counter() - start)

    return work


def measure_files(quick: bool, seed: int) -> list[dict[str, Any]]:
    """Return sizes and speeds of a file of each recipe."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in RECIPES:
            data = recipe(name, 110 if quick else 2200, seed)
            found.append({"recipe": name, **_file(data, Path(folder) / f"{name}.npz")})
    return found


def _file(data: EpisodeDataset, path: Path) -> dict[str, Any]:
    tokens = int((data.roles != int(Role.PAD)).sum())
    start = time.perf_counter()
    data.save(path)
    saved = time.perf_counter()
    again = load(path)
    loaded = time.perf_counter()
    assert again == data, "a file must keep every field"
    size = path.stat().st_size
    arrays = data.tokens.nbytes + data.roles.nbytes + data.rewards.nbytes
    return {
        "episodes": len(data),
        "tokens": tokens,
        "bytes_per_token": float(f"{size / tokens:.3g}"),
        "arrays_per_file": float(f"{arrays / size:.3g}"),
        "save_tokens_per_second": float(f"{tokens / (saved - start):.3g}"),
        "load_tokens_per_second": float(f"{tokens / (loaded - saved):.3g}"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for line in measure(arguments.quick, arguments.seed):
        print(line)
    for line in measure_files(arguments.quick, arguments.seed):
        print(json.dumps(line))
