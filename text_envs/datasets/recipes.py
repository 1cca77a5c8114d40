"""The data sets of the offline studies, built from a seed instead of downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

from text_envs.core.facts import describe
from text_envs.datasets.collecting import collect
from text_envs.episodes.errors import suggest
from text_envs.episodes.store import EpisodeDataset

__all__ = ["RECIPES", "recipe"]

RECIPES: Mapping[str, str] = MappingProxyType(
    {
        "comments": "replies in four tones at their shares in the behaviour data",
        "maze": "one expert episode among three random walks, whole games",
        "maze-walks": "random walks of 8 commands, cut: the stitching test",
        "reviews": "continuations sampled from the bundled language model (needs torch)",
        "visual-dialogue": "expert, polar and arbitrary questions in equal parts",
        "wordle-adversarial": "good openings that were mostly played by bad players",
        "wordle-mixed": "four scripted policies in equal parts",
    }
)

# Which environment, and whose episodes.
_PLAYED = {
    "comments": ("text_envs/Comments-v0", "mixed"),
    "maze": ("text_envs/Maze-v0", "mixed"),
    "maze-walks": ("text_envs/Maze-v0", "walk"),
    "reviews": ("text_envs/Reviews-v0", "reviews"),
    "visual-dialogue": ("text_envs/VisualDialogue-v0", "mixed"),
    "wordle-adversarial": ("text_envs/Wordle-v0", "adversarial"),
    "wordle-mixed": ("text_envs/Wordle-v0", "mixed"),
}
_WALK = 8  # commands
_GAMES = 11  # of the adversarial set about one hidden word


def recipe(
    name: str, n: int, seed: int = 0, *, progress_bar: bool = False, **env_kwargs: Any
) -> EpisodeDataset:
    """Build a data set.

    Every episode has a column "policy" (who played) except in "reviews". "maze-walks" are whole
    games of `Maze-v0` cut after 8 commands: where the goal was not reached the episode is
    truncated, and its last tokens are what the agent saw then. "wordle-adversarial" has a column
    "game", the number of the hidden word that 11 episodes share.

    Args:
        name: one of `RECIPES`.
        n: number of episodes; for "wordle-adversarial" a multiple of 11.
        seed: the same seed builds the same episodes.
        progress_bar: show one; needs tqdm. "wordle-adversarial" shows none: it is built at once.
        **env_kwargs: arguments of the environment, for example `reward_kind="yes_no"`.

    Raises:
        ValueError: an unknown name, or a number that cannot be.

    >>> recipe("wordle-mixed", 4)
    EpisodeDataset(4 episodes of text_envs/Wordle-v0, ...
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}.{suggest(str(name), RECIPES)}")
    env_id, policy = _PLAYED[name]
    if name == "wordle-adversarial":
        return _adversarial(env_id, n, seed, env_kwargs)
    if name != "maze-walks":
        return collect(env_id, policy, n, seed=seed, progress_bar=progress_bar, **env_kwargs)
    # The limit is one of the walks and not of the game, which the metadata speak of.
    cut = {**env_kwargs, "max_episode_steps": 2 * _WALK}
    walks = collect(env_id, policy, n, seed=seed, progress_bar=progress_bar, **cut)
    return _about(walks, env_id, env_kwargs)


def _adversarial(env_id: str, n: int, seed: int, env_kwargs: dict[str, Any]) -> EpisodeDataset:
    if not isinstance(n, int | np.integer) or n < 1 or n % _GAMES:
        raise ValueError(
            f"n must be a positive multiple of {_GAMES}, the games about one hidden word, got "
            f"{n!r}; nearest: {max(1, round(n / _GAMES)) * _GAMES}"
        )
    env: Any = gym.make(env_id, **env_kwargs).unwrapped
    played = env.task.adversarial_set(n // _GAMES, seed=seed).demonstrations
    return _about(played, env_id, env_kwargs)


def _about(dataset: EpisodeDataset, env_id: str, env_kwargs: dict[str, Any]) -> EpisodeDataset:
    """Return the episodes with the metadata of an environment made of these arguments."""
    env = gym.make(env_id, **env_kwargs)
    recording = {key: dataset.metadata[key] for key in ("seed", "policy")}
    facts = describe(env, **recording)
    env.close()
    return replace(dataset, metadata=facts)
