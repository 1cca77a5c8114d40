"""Roll-outs in which neighbouring episodes share their start, for baselines made of siblings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from agents.common.envs import attribute
from agents.rollouts.episodes import Collected, TokenPolicy, collect_episodes
from agents.rollouts.rollout import Rollout

__all__ = ["collect_groups"]


def collect_groups(
    policy: TokenPolicy,
    env: VecEnv,
    n_episodes: int,
    group_size: int,
    on_step: Callable[[dict[str, Any]], bool] = lambda _: True,
    draw: Callable[[int], NDArray[np.int64]] | None = None,
) -> Collected:
    """Play `n_episodes` whole episodes of which each `group_size` neighbours share an example.

    The environments are reset before each of their episodes, because an environment that starts
    again by itself would leave its group. Examples are drawn from numpy's global generator, which
    Stable-Baselines3 seeds; where a start plug-in writes the first tokens, the environment draws
    them and lets a group share both.

    Args:
        policy: chooses the tokens.
        env: a vector of text environments.
        n_episodes: a multiple of `env.num_envs`.
        group_size: a divisor of `env.num_envs`.
        on_step: see `collect_episodes`.
        draw: returns the examples of so many groups; None draws them uniformly.

    Raises:
        Exception: whatever the environment or the policy raises; what was finished before is in
            the exception's attribute `partial_rollout`.
    """
    shared = draw is None and _begun_by_a_guide(env)
    if draw is None:
        examples = len(env.get_attr("task")[0])
        draw = lambda groups: np.random.randint(examples, size=groups)  # noqa: E731
    finished: list[Rollout] = []
    while True:
        try:
            options: Any = {"group_size": group_size}  # the environment draws, for whole groups
            if not shared:
                indices = np.repeat(draw(env.num_envs // group_size), group_size)
                options = [{"index": index} for index in indices.tolist()]
            obs = _reset(env, options)
            collected = collect_episodes(policy, env, env.num_envs, obs, on_step)
        except BaseException as error:
            partial = [*finished, *filter(None, [getattr(error, "partial_rollout", None)])]
            if partial:
                error.partial_rollout = Rollout.cat(partial)  # type: ignore[attr-defined]
            raise
        finished.append(collected.rollout)
        if not collected.complete or len(finished) * env.num_envs >= n_episodes:
            # Rows that began another episode by themselves are to be reset before the next one.
            starts = np.zeros(env.num_envs, dtype=bool)
            return Collected(Rollout.cat(finished), collected.obs, starts, collected.complete)


def _begun_by_a_guide(env: VecEnv) -> bool:
    """Return whether a start plug-in writes the first tokens.

    Raises:
        ValueError: the rows are environments of their own, whose plug-ins know of no group.
    """
    engine = attribute(env, "engine")
    if engine is None or engine.starts is None:
        return False
    if engine.num_envs != env.num_envs:
        raise ValueError(
            "texts of a group share what starts=... wrote, for which all rows must be in one "
            "batch; accepted: an id, a TokenVectorEnv, or what text_envs.make_sb3 returns"
        )
    return True


def _reset(env: VecEnv, options: Any) -> NDArray[np.int64]:
    env.set_options(options)
    observations: NDArray[np.int64] = env.reset()  # type: ignore[assignment]
    return observations
