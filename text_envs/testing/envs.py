"""The contract of an environment id as callable checks, for this suite and for third parties.

`check_env_id("my_package/MyTask-v0")` runs all of them; a test suite may loop over `CHECKS`
instead, so that each shows as a test of its own. A violated check raises `AssertionError`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from text_envs.envs.single import TokenEnv
from text_envs.envs.vector import TokenVectorEnv
from text_envs.episodes.types import Role
from text_envs.testing.reliability import RELIABILITY_CHECKS
from text_envs.testing.shared import (
    check_gymnasium,
    check_spec_round_trip,
    random_actions,
    single,
    vector,
)
from text_envs.testing.tasks import check_reward_model, check_task

__all__ = ["CHECKS", "check_env_id", "check_reward_model", "check_task"]


def check_env_id(env_id: str, **kwargs: Any) -> None:
    """Run every check of the contract on a registered id.

    Args:
        env_id: an id known to `gymnasium.make`.
        **kwargs: arguments for `gymnasium.make`.

    Raises:
        AssertionError: a check failed.
    """
    for check in CHECKS:
        check(env_id, **kwargs)


def check_spaces(env_id: str, **kwargs: Any) -> None:
    """The observation is a flat int64 box wide enough, the action a token that may be written."""
    env = _single(env_id, **kwargs)
    box, tokens = env.observation_space, env.action_space
    length = env.task.prompt_length + env.task.max_tokens
    assert isinstance(box, gym.spaces.Box) and isinstance(tokens, gym.spaces.Discrete)
    assert box.shape == (length,) and box.dtype == np.int64
    assert int(box.high.max()) == env.tokenizer.vocab_size - 1 and int(box.low.min()) == 0
    assert int(tokens.n) == env.tokenizer.num_actions <= env.tokenizer.vocab_size
    assert env.tokenizer.pad_id != env.tokenizer.eos_id < tokens.n


def check_same_seed(env_id: str, **kwargs: Any) -> None:
    """Row i of the vector environment equals the single environment seeded with `seed + i`."""
    for mode in ("SAME_STEP", "NEXT_STEP"):
        batch = _vector(env_id, num_envs=3, autoreset_mode=mode, **kwargs)
        singles = [_single(env_id, **kwargs) for _ in range(3)]
        observations, _ = batch.reset(seed=11)
        for row, env in enumerate(singles):
            assert np.array_equal(observations[row], env.reset(seed=11 + row)[0])
        ended = np.zeros(3, dtype=bool)
        for actions in random_actions(batch, batch.num_envs, seed=0):
            observations, rewards, terminated, truncated, _ = batch.step(actions)
            for row, env in enumerate(singles):
                if mode == "NEXT_STEP" and ended[row]:
                    assert np.array_equal(observations[row], env.reset()[0])
                    assert rewards[row] == 0 and not terminated[row]
                    continue
                observation, reward, over, _, _ = env.step(actions[row])
                assert (rewards[row], terminated[row]) == (reward, over)
                if over and mode == "SAME_STEP":
                    observation, _ = env.reset()
                assert np.array_equal(observations[row], observation)
            ended = terminated | truncated


def check_state_round_trip(env_id: str, **kwargs: Any) -> None:
    """From a saved state the rows go on exactly as they did, random draws included."""
    batch = _vector(env_id, num_envs=4, **kwargs)
    batch.reset(seed=3)
    actions = list(random_actions(batch, batch.num_envs, seed=1))
    for action in actions[:7]:
        batch.step(action)
    state = pickle.loads(pickle.dumps(batch.get_state()))
    first = [batch.step(action)[:4] for action in actions[7:]]
    batch.set_state(state)
    second = [batch.step(action)[:4] for action in actions[7:]]
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def check_ledger(env_id: str, **kwargs: Any) -> None:
    """`reward_terms` sums to the reward, in the single and in the vector environment."""
    env = _single(env_id, **kwargs)
    env.reset(seed=2)
    for action in random_actions(env, 1, seed=2)[:, 0]:
        _, reward, terminated, _, info = env.step(action)
        assert np.isclose(sum(info["reward_terms"].values()), float(reward))
        if terminated:
            assert isinstance(info["finish_reason"], str) and isinstance(info["text"], str)
            env.reset()
    batch = _vector(env_id, num_envs=5, **kwargs)
    batch.reset(seed=2)
    for actions in random_actions(batch, batch.num_envs, seed=2):
        _, rewards, _, _, infos = batch.step(actions)
        terms = infos["reward_terms"]
        total = sum(terms[name] for name in terms if not name.startswith("_"))
        assert np.allclose(total, rewards)


def check_roles(env_id: str, **kwargs: Any) -> None:
    """The recorded actions are, in order, what stands in the columns marked as actions."""
    env = _single(env_id, **kwargs)
    env.reset(seed=4)
    taken: list[int] = []
    for action in random_actions(env, 1, seed=4)[:, 0]:
        taken.append(int(action))
        observation, _, terminated, _, info = env.step(action)
        if terminated:
            written = observation[info["roles"] == Role.ACTION]
            forbidden = env.tokenizer.forbidden[taken]
            expected = np.where(forbidden, env.tokenizer.eos_id, taken)
            assert np.array_equal(written, expected)
            taken.clear()
            env.reset()


def check_action_mask(env_id: str, **kwargs: Any) -> None:
    """The opt-in mask is int8, agrees with `action_masks()`, and allows at least one token."""
    env = _single(env_id, **{**kwargs, "action_mask": True})
    _, info = env.reset(seed=6)
    mask = info["action_mask"]
    assert mask.dtype == np.int8 and mask.shape == (env.action_space.n,)  # type: ignore[attr-defined]
    assert np.array_equal(mask.astype(bool), env.action_masks()) and mask.any()
    assert env.action_space.contains(env.action_space.sample(mask=mask))
    batch = _vector(env_id, num_envs=2, action_mask=True, **kwargs)
    assert batch.reset(seed=6)[1]["action_mask"].shape == (2, env.tokenizer.num_actions)


def check_no_shared_arrays(env_id: str, **kwargs: Any) -> None:
    """Nothing that was returned changes afterwards, and changing it changes nothing."""
    batch = _vector(env_id, num_envs=3, **kwargs)
    kept = [batch.reset(seed=8)[0]]
    copies = [kept[0].copy()]
    for actions in random_actions(batch, batch.num_envs, seed=8):
        observations, rewards, _, _, _ = batch.step(actions)
        kept += [observations, rewards]
        copies += [observations.copy(), rewards.copy()]
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))
    state = batch.get_state()
    kept[-2][...] = 0
    assert np.array_equal(batch.get_state()["episode"]["tokens"], state["episode"]["tokens"])


CHECKS: tuple[Callable[..., None], ...] = (
    check_gymnasium,
    check_spaces,
    check_spec_round_trip,
    check_same_seed,
    check_state_round_trip,
    check_ledger,
    check_roles,
    check_action_mask,
    check_no_shared_arrays,
    *RELIABILITY_CHECKS,
)


def _single(env_id: str, **kwargs: Any) -> TokenEnv:
    env = single(env_id, **kwargs)
    assert isinstance(env, TokenEnv), f"{env_id} makes a {type(env).__name__}, not a TokenEnv"
    return env


def _vector(env_id: str, **kwargs: Any) -> TokenVectorEnv:
    env = vector(env_id, **kwargs)
    assert isinstance(env, TokenVectorEnv), f"{env_id} makes a {type(env).__name__}"
    return env
