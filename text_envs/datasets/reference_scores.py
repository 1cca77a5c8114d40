"""Reference scores of every environment: what chance, the behaviour data and an expert earn.

    python -m text_envs.reference                    # all ids, about a second each
    python -m text_envs.reference --ids Maze-v0      # some of them; the others are kept

plays `task.demonstrations` with the default arguments and writes
`text_envs/assets/reference_scores.json`. `normalised_score` puts any mean return on the scale on
which chance is 0 and the expert is 1. The scores of a goal-conditioned id are those under the goal
"correct".
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from text_envs.datasets.demonstrations import demonstrate
from text_envs.envs.registration import list_ids
from text_envs.episodes.errors import suggest
from text_envs.tokens.assets import ASSETS

__all__ = ["FILE", "QUALITIES", "measure", "normalised_score", "reference_scores", "write_scores"]

FILE = ASSETS / "reference_scores.json"

# What a score is called here, and which quality of `task.demonstrations` it stands for.
QUALITIES = {"random": "random", "behaviour": "mixed", "expert": "expert"}


def reference_scores(env_id: str) -> dict[str, dict[str, float]]:
    """Return the stored scores of an environment.

    Args:
        env_id: with or without the namespace, for example "Maze-v0".

    Returns:
        `{"random": {"mean": ..., "interval": ..., "episodes": ...}, "behaviour": ...,
        "expert": ...}`: mean return, half the width of its 95% interval, number of episodes. A
        task without a script has only "random".

    Raises:
        ValueError: no scores are stored for this id.
    """
    scores = _stored(FILE.stat().st_mtime_ns if FILE.exists() else 0)
    full = env_id if "/" in env_id else f"text_envs/{env_id}"
    if full not in scores:
        raise ValueError(f"no reference scores for {env_id!r}.{suggest(full, scores)}")
    return {name: dict(score) for name, score in scores[full].items()}


def normalised_score(env_id: str, value: float) -> float:
    """Return (value - random) / (expert - random) with the stored mean returns.

    Args:
        env_id: with or without the namespace.
        value: a mean return with the default arguments of the environment.

    Raises:
        ValueError: no scores are stored for this id, or it has no expert.
    """
    scores = reference_scores(env_id)
    if "expert" not in scores:
        raise ValueError(f"{env_id} has no scripted expert, so its scores have no scale")
    low, high = scores["random"]["mean"], scores["expert"]["mean"]
    return (value - low) / (high - low)


def measure(env_id: str, episodes: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Play an environment's scripted policies and return what `reference_scores` stores.

    Args:
        env_id: a registered id.
        episodes: how many each policy plays, at least 2.
        seed: of all draws.
    """
    if episodes < 2:
        raise ValueError(f"an interval needs at least 2 episodes, got {episodes}")
    env: Any = gym.make(env_id).unwrapped
    scores = {}
    for name, quality in QUALITIES.items():
        if quality not in env.task.qualities:
            continue
        played = demonstrate(
            env.task, episodes, quality=quality, seed=seed, reward=env.reward_model
        )
        returns = played.returns
        if isinstance(env.observation_space, gym.spaces.Dict):  # a text is correct, or it is not
            returns = (returns >= env.engine.threshold).astype(np.float64)
        error = returns.std(ddof=1) / np.sqrt(episodes)
        scores[name] = {
            "mean": round(float(returns.mean()), 4),
            "interval": round(1.96 * float(error), 4),
            "episodes": episodes,
        }
    return scores


def write_scores(
    ids: Sequence[str], episodes: int, seed: int = 0, file: Path = FILE
) -> dict[str, Any]:
    """Measure `ids` and store the result, whole or not at all; other ids in the file are kept.

    Returns:
        the scores measured.
    """
    measured = {}
    for env_id in ids:
        scores = measured[env_id] = measure(env_id, episodes, seed)
        print(env_id, *(f"{name} {score['mean']:.3f}" for name, score in scores.items()))
    kept = json.loads(file.read_text(encoding="utf-8"))["scores"] if file.exists() else {}
    content = {
        "command": "python -m text_envs.reference",
        "seed": seed,
        "scores": dict(sorted({**kept, **measured}.items())),
    }
    # Written beside its place and then moved, so that no reader ever sees half a file.
    handle, draft = tempfile.mkstemp(dir=file.parent, suffix=".draft")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(content, indent=1) + "\n")
        os.chmod(draft, 0o644)
        os.replace(draft, file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return measured


@functools.lru_cache(maxsize=1)
def _stored(modified: int) -> dict[str, dict[str, dict[str, float]]]:
    if not modified:
        return {}
    scores: dict[str, dict[str, dict[str, float]]] = json.loads(FILE.read_text(encoding="utf-8"))[
        "scores"
    ]
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m text_envs.reference", description="Measure the reference scores."
    )
    parser.add_argument("--ids", nargs="+", metavar="ID", help="default: every id of the suite")
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    known = list_ids()
    ids = [name if "/" in name else f"text_envs/{name}" for name in args.ids or known]
    for env_id in ids:
        if env_id not in gym.registry:
            parser.error(f"unknown id {env_id!r}.{suggest(env_id, known)}")
    write_scores(ids, args.episodes, args.seed)


if __name__ == "__main__":
    main()
