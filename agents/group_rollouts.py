"""Roll-outs in which neighbouring episodes share their start, for baselines made of siblings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from agents.rollouts import Collected, Rollout, TokenPolicy, collect_episodes

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
    Stable-Baselines3 seeds.

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
    if draw is None:
        examples = len(env.get_attr("task")[0])
        draw = lambda groups: np.random.randint(examples, size=groups)  # noqa: E731
    finished: list[Rollout] = []
    while True:
        try:
            obs = _reset(env, draw(env.num_envs // group_size), group_size)
            collected = collect_episodes(policy, env, env.num_envs, obs, on_step)
        except Exception as error:
            partial = [*finished, *filter(None, [getattr(error, "partial_rollout", None)])]
            if partial:
                error.partial_rollout = Rollout.cat(partial)  # type: ignore[attr-defined]
            raise
        finished.append(collected.rollout)
        if not collected.complete or len(finished) * env.num_envs >= n_episodes:
            # Rows that began another episode by themselves are to be reset before the next one.
            starts = np.zeros(env.num_envs, dtype=bool)
            return Collected(Rollout.cat(finished), collected.obs, starts, collected.complete)


def _reset(env: VecEnv, examples: NDArray[np.int64], group_size: int) -> NDArray[np.int64]:
    indices = np.repeat(examples, group_size)
    env.set_options([{"index": index} for index in indices.tolist()])
    observations: NDArray[np.int64] = env.reset()  # type: ignore[assignment]
    return observations
