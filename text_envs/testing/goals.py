"""The contract of a goal-conditioned id, beside `text_envs.testing.envs` for those without goals.

`check_goal_env_id("my_package/MyTaskGoal-v0")` runs all checks; a test suite may loop over
`GOAL_CHECKS` instead. A violated check raises `AssertionError`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from text_envs.envs.goal import Goal, GoalTokenEnv, GoalTokenVectorEnv
from text_envs.testing.reliability import RELIABILITY_CHECKS
from text_envs.testing.shared import (
    check_gymnasium,
    check_spec_round_trip,
    random_actions,
    same,
    single,
    vector,
)

__all__ = ["GOAL_CHECKS", "check_goal_env_id"]


def check_goal_env_id(env_id: str, **kwargs: Any) -> None:
    """Run every check of the contract on a registered goal-conditioned id.

    Args:
        env_id: an id known to `gymnasium.make`.
        **kwargs: arguments for `gymnasium.make`.

    Raises:
        AssertionError: a check failed.
    """
    for check in GOAL_CHECKS:
        check(env_id, **kwargs)


def check_spaces(env_id: str, **kwargs: Any) -> None:
    """Tokens and two goals, which have one space, since one replaces the other in a buffer."""
    env = _single(env_id, **kwargs)
    space = env.observation_space
    assert isinstance(space, gym.spaces.Dict)
    assert list(space) == ["achieved_goal", "desired_goal", "observation"]  # Dict sorts its keys
    assert space["achieved_goal"] == space["desired_goal"] == gym.spaces.Discrete(3)
    length = env.task.prompt_length + env.task.max_tokens
    assert space["observation"].shape == (length,) and space["observation"].dtype == np.int64
    batch = _vector(env_id, num_envs=2, **kwargs)
    observation, _ = batch.reset(seed=0)
    assert batch.observation_space.contains(observation)


def check_reward(env_id: str, **kwargs: Any) -> None:
    """Step pays what `compute_reward` says, for one, for many, and in the shapes of buffers."""
    env = _single(env_id, **kwargs)
    env.reset(seed=1)
    achieved: list[int] = []
    desired: list[int] = []
    rewards: list[float] = []
    for action in random_actions(env, 1, seed=1)[:, 0]:
        observation, reward, terminated, _, info = env.step(action)
        goals = observation["achieved_goal"], observation["desired_goal"]
        assert type(reward) is float and reward == env.compute_reward(*goals, info)
        assert np.isclose(sum(info["reward_terms"].values()), reward)
        assert (goals[0] == Goal.UNFINISHED) == (not terminated)
        achieved, desired = [*achieved, goals[0]], [*desired, goals[1]]
        rewards.append(reward)
        if terminated:
            env.reset()
    for shape in ((-1,), (-1, 1)):
        a, d = np.reshape(achieved, shape), np.reshape(desired, shape)
        batch = env.compute_reward(a, d, [{}] * len(a))
        assert isinstance(batch, np.ndarray) and batch.tolist() == rewards
        # An episode whose goal becomes what it achieved has succeeded.
        relabelled = env.compute_reward(a, a, [{}] * len(a))
        assert np.array_equal(relabelled, np.array(achieved) != Goal.UNFINISHED)


def check_choice_of_goal(env_id: str, **kwargs: Any) -> None:
    """A goal can be fixed for one episode or for all, and never changes what is asked."""
    free = _single(env_id, **kwargs)
    for goal, number in (("wrong", 0), ("correct", 1), (1, 1)):
        fixed = _single(env_id, **{**kwargs, "goal": goal})
        for seed in (3, None, None):
            first = free.reset(seed=seed, options={"goal": goal})[0]
            assert first["desired_goal"] == number and same(first, fixed.reset(seed=seed)[0])
    goals = {int(free.reset()[0]["desired_goal"]) for _ in range(40)}
    assert goals == ({0, 1} if kwargs.get("goal") is None else goals)


def check_same_seed(env_id: str, **kwargs: Any) -> None:
    """Row i of the vector environment equals the single environment seeded with `seed + i`."""
    for mode in ("SAME_STEP", "NEXT_STEP"):
        batch = _vector(env_id, num_envs=3, autoreset_mode=mode, **kwargs)
        singles = [_single(env_id, **kwargs) for _ in range(3)]
        observations, _ = batch.reset(seed=11)
        for row, env in enumerate(singles):
            assert same(_row(observations, row), env.reset(seed=11 + row)[0])
        ended = np.zeros(3, dtype=bool)
        for actions in random_actions(batch, 3, seed=0):
            observations, rewards, terminated, truncated, infos = batch.step(actions)
            for row, env in enumerate(singles):
                if mode == "NEXT_STEP" and ended[row]:
                    assert same(_row(observations, row), env.reset()[0]) and rewards[row] == 0
                    continue
                observation, reward, over, _, _ = env.step(actions[row])
                assert (rewards[row], terminated[row]) == (reward, over)
                if over and mode == "SAME_STEP":
                    assert same(infos["final_obs"][row], observation)
                    observation, _ = env.reset()
                assert same(_row(observations, row), observation)
            ended = terminated | truncated


def check_state_round_trip(env_id: str, **kwargs: Any) -> None:
    """From a saved state the rows go on exactly as they did, goals included."""
    batch = _vector(env_id, num_envs=4, **kwargs)
    batch.reset(seed=3)
    actions = random_actions(batch, 4, seed=1)
    for action in actions[:7]:
        batch.step(action)
    state = pickle.loads(pickle.dumps(batch.get_state()))
    first = [batch.step(action) for action in actions[7:]]
    batch.set_state(state)
    second = [batch.step(action) for action in actions[7:]]
    for one, other in zip(first, second, strict=True):
        assert same(one[0], other[0])
        assert all(np.array_equal(a, b) for a, b in zip(one[1:4], other[1:4], strict=True))


def check_no_shared_arrays(env_id: str, **kwargs: Any) -> None:
    """Nothing that was returned changes afterwards."""
    batch = _vector(env_id, num_envs=3, **kwargs)
    kept = [batch.reset(seed=8)[0]]
    copies = [{key: array.copy() for key, array in kept[0].items()}]
    for actions in random_actions(batch, 3, seed=8):
        kept.append(batch.step(actions)[0])
        copies.append({key: array.copy() for key, array in kept[-1].items()})
    assert all(same(one, other) for one, other in zip(kept, copies, strict=True))


GOAL_CHECKS: tuple[Callable[..., None], ...] = (
    check_gymnasium,
    check_spaces,
    check_spec_round_trip,
    check_reward,
    check_choice_of_goal,
    check_same_seed,
    check_state_round_trip,
    check_no_shared_arrays,
    *RELIABILITY_CHECKS,
)


def _single(env_id: str, **kwargs: Any) -> GoalTokenEnv:
    env = single(env_id, **kwargs)
    assert isinstance(env, GoalTokenEnv), f"{env_id} makes a {type(env).__name__}"
    return env


def _vector(env_id: str, **kwargs: Any) -> GoalTokenVectorEnv:
    env = vector(env_id, **kwargs)
    assert isinstance(env, GoalTokenVectorEnv), f"{env_id} makes a {type(env).__name__}"
    return env


def _row(observations: dict[str, Any], row: int) -> dict[str, Any]:
    return {key: array[row] for key, array in observations.items()}
