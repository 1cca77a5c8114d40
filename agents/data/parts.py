"""Judging parts of the texts of a roll-out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.data.relabelling import PartJudge, SuffixMatch
from agents.rollouts.rollout import Rollout
from text_envs.core.task import Task
from text_envs.episodes.errors import RewardModelError, suggest
from text_envs.episodes.types import EpisodeBatch

__all__ = ["judge_parts", "resolve_part_judge"]

_NAMES = ("suffix",)


def resolve_part_judge(
    judge: PartJudge | str | None, task: Task, reward_model: Any
) -> PartJudge | None:
    """Return the judge of parts that an argument stands for.

    Args:
        judge: "suffix", a function, or None for the method `judge_parts` of the reward model.
        task: of the environment.
        reward_model: of the environment.

    Returns:
        None where there is none.

    Raises:
        ValueError: an unknown name, or "suffix" for a task without references.
        TypeError: something else.
    """
    if judge is None:
        found: PartJudge | None = getattr(reward_model, "judge_parts", None)
        return found
    if isinstance(judge, str):
        if judge not in _NAMES:
            raise ValueError(f"unknown part_judge {judge!r}.{suggest(judge, _NAMES)}")
        return SuffixMatch(task)
    if not callable(judge):
        raise TypeError(
            f"part_judge must be 'suffix' or a function of (episodes, starts), got {judge!r}"
        )
    return judge


def judge_parts(
    judge: PartJudge | None,
    task: Task,
    rollout: Rollout,
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the score of each part, `(P,)`, from one call of the judge.

    Args:
        judge: scores parts.
        task: what the texts answer.
        rollout: the texts.
        rows: `(P,)` of which text each part is.
        first: `(P,)` its first action.

    Raises:
        RewardModelError: the judge raised.
        ValueError: the judge returned another shape or numbers that are not finite.
    """
    assert judge is not None
    infos = rollout.infos
    episodes = EpisodeBatch(
        rollout.tokens.cpu().numpy()[rows],
        np.stack([infos[row]["roles"] for row in rows.tolist()])
        if len(rows)
        else np.zeros((0, rollout.tokens.shape[1]), dtype=np.int8),
        prompt_length=task.prompt_length,
        tokenizer=task.tokenizer,
        example_indices=np.array([infos[row]["example_index"] for row in rows.tolist()], np.int64),
        finish_reasons=[infos[row]["finish_reason"] for row in rows.tolist()],
        get_example=task.example,
    )
    try:
        scores = np.asarray(judge(episodes, first), dtype=np.float64)
    except Exception as error:
        raise RewardModelError(
            f"the judge of parts raised {type(error).__name__}: {error}, asked about {len(rows)} "
            "parts; the whole texts are in the history",
            episodes,
        ) from error
    if scores.shape != (len(rows),) or not np.isfinite(scores).all():
        raise ValueError(
            f"the judge of parts returned shape {scores.shape} for {len(rows)} parts, or numbers "
            f"that are not finite; expected finite numbers of shape ({len(rows)},)"
        )
    return scores
