"""Recorded episodes with other rewards: what the same texts earn from another reward model.

An episode of a task with a reward model is paid once, on the last token written. `rescore` replaces
that payment without playing again. Where replies or a shaping plug-in have paid for other tokens, a
new payment cannot simply take the old one's place: such data are refused until `mode` says whether
the new reward replaces all of it or is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.facts import check_compatible, task_of
from text_envs.core.reward import RewardModel, bind, label, score_with_details
from text_envs.core.task import Task
from text_envs.episodes.errors import DatasetError, suggest
from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.types import EpisodeBatch, Role
from text_envs.rewards.resolve import resolve

__all__ = ["rescore"]

Floats = NDArray[np.float64]

_MODES = ("replace", "add")
# Columns that belong to the rewards before.
_PREFIXES = ("reward_terms/", "reward_details/")


def rescore(
    episodes: EpisodeDataset,
    new_reward: Any,
    task_or_env: Any,
    *,
    mode: str | None = None,
    reward_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> EpisodeDataset:
    """Return the episodes with the rewards of another reward model.

    The reward of a text is on its last token; truncated episodes are paid nothing, as an
    environment does it. The components of the reward and what the model tells beside it are in
    the columns `reward_terms/<name>` and `reward_details/<name>`, NaN for truncated episodes.

    Args:
        episodes: what was recorded; it is left as it is.
        new_reward: anything `text_envs.rewards.resolve` accepts.
        task_or_env: the task they belong to, an environment of it of any kind, or its id.
        mode: "replace" drops all recorded rewards, "add" keeps them. None replaces the reward at
            the end, if the task has no turns and no other token was paid.
        reward_kwargs: arguments of a reward model given by name.
        seed: of reward models that draw, for example among demonstrations; episode i draws from a
            generator of its own.
        batch_size: texts scored in one call.

    Raises:
        ValueError: an unknown mode, or none where one is needed.
        DatasetError: the episodes are of another task.
        RewardModelError: the reward model failed.

    >>> from text_envs.datasets import collect
    >>> from text_envs.rewards import Calibrated
    >>> played = collect("text_envs/Toy-v0", "expert", 2)  # "a b" and the end
    >>> played.returns.tolist()
    [1.5, 1.5]
    >>> rescore(played, "length", "text_envs/Toy-v0").returns.tolist()
    [2.0, 2.0]
    >>> again = rescore(played, Calibrated("length", {0: "a b a"}), "text_envs/Toy-v0")
    >>> again.returns.tolist(), again.columns["reward_details/demo"].tolist()
    ([-1.0, -1.0], [3.0, 3.0])
    """
    if mode is not None and mode not in _MODES:
        raise ValueError(f"unknown mode {mode!r}.{suggest(str(mode), _MODES)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
    task = task_of(task_or_env)
    _check(episodes, task_or_env, task)
    model = resolve(new_reward, **dict(reward_kwargs or {}))
    bind(model, task)
    last = _last_written(episodes)
    if mode is None:
        _check_replaceable(episodes, task, last)
    terms, details = _score(episodes, model, task, seed, batch_size)
    rewards = episodes.rewards.copy() if mode == "add" else np.zeros_like(episodes.rewards)
    paid = np.flatnonzero(episodes.terminated)
    rewards[paid, last[paid]] += sum(terms.values(), start=np.zeros(len(episodes)))[paid]
    # Other rewards' columns would be taken for these; what is kept beside them keeps its own.
    columns = dict(episodes.columns)
    if mode != "add":
        columns = {k: v for k, v in columns.items() if not k.startswith(_PREFIXES)}
    if list(terms) != ["task"]:
        columns |= {f"reward_terms/{name}": values for name, values in terms.items()}
    columns |= {f"reward_details/{name}": values for name, values in details.items()}
    history = [*episodes.metadata.get("rescored", []), {"reward": label(model), "mode": mode}]
    metadata = {**episodes.metadata, "rescored": history}
    return replace(episodes, rewards=rewards, columns=columns, metadata=metadata)


def _check(episodes: EpisodeDataset, task_or_env: Any, task: Task) -> None:
    check_compatible(episodes, task_or_env)
    theirs = episodes.metadata.get("task")
    # By the name alone: the module of a script has another one when it is imported.
    ours = [cls.__qualname__ for cls in type(task).__mro__]
    if theirs is not None and str(theirs).rpartition(":")[2] not in ours:
        raise DatasetError(
            f"{episodes.source or 'data set'}: its episodes are of the task {theirs}, not of "
            f"{type(task).__module__}:{ours[0]}"
        )
    largest = int(episodes.example_indices.max(initial=-1))
    if largest >= len(task):
        raise DatasetError(
            f"{episodes.source or 'data set'}: an episode is about example {largest}, the task has "
            f"0..{len(task) - 1}; it belongs to other data or another split"
        )


def _last_written(episodes: EpisodeDataset) -> NDArray[np.int64]:
    """Return the column of each episode's last token that is not a reply, `(B,)`."""
    written = (episodes.roles == int(Role.ACTION)) | (episodes.roles == int(Role.PREFIX))  # (B, L)
    last: NDArray[np.int64] = written.shape[1] - 1 - written[:, ::-1].argmax(axis=1)
    return last


def _check_replaceable(episodes: EpisodeDataset, task: Task, last: NDArray[np.int64]) -> None:
    """Refuse to guess what becomes of rewards that another reward model did not pay."""
    choices = (
        "mode='replace' drops all recorded rewards, mode='add' adds the new one at the end of "
        "each episode"
    )
    if task.multi_turn:
        raise ValueError(f"the replies of {type(task).__name__} pay for turns; {choices}")
    elsewhere = (episodes.rewards != 0) & (np.arange(episodes.rewards.shape[1]) != last[:, None])
    if elsewhere.any():
        episode, column = np.argwhere(elsewhere)[0].tolist()
        raise ValueError(
            f"episode {episode} was paid {episodes.rewards[episode, column]:g} in column {column}, "
            f"before its end, as shaping does; {choices}"
        )


def _score(
    episodes: EpisodeDataset, model: RewardModel, task: Task, seed: int, batch_size: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the components of the rewards and their details, `(B,)` each."""
    paid = np.flatnonzero(episodes.terminated)
    kinds: tuple[dict[str, Floats], dict[str, Floats]] = ({}, {})
    for start in range(0, len(paid), batch_size):
        rows = paid[start : start + batch_size]
        batch = EpisodeBatch(
            episodes.tokens[rows],
            episodes.roles[rows],
            prompt_length=task.prompt_length,
            tokenizer=task.tokenizer,
            example_indices=episodes.example_indices[rows],
            finish_reasons=[episodes.finish_reasons[row] for row in rows.tolist()],
            get_example=task.example,
            rngs=[np.random.default_rng([seed, row]) for row in rows.tolist()],
        )
        for kind, scored in zip(kinds, score_with_details(model, batch), strict=True):
            for name, values in scored.items():
                kind.setdefault(name, np.full(len(episodes), np.nan))[rows] = values
    return kinds
