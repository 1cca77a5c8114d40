"""Whole episodes: which are collected, what is recorded of them, what survives a failure."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import text_envs
from agents import PPO, CausalLMPolicy, policy_kwargs_for
from agents.rollouts.episodes import collect_episodes, score
from agents.rollouts.rollout import Rollout
from text_envs import RewardModelError, Role, TokenEnv


def policy_for(env: Any, lm: Any, **kwargs: Any) -> CausalLMPolicy:
    return CausalLMPolicy(
        env.observation_space, env.action_space, lambda _: 1e-3,
        **policy_kwargs_for(env, lm, **kwargs),
    )  # fmt: skip


def play(env: Any, policy: Any, n: int, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return collect_episodes(policy, env, n, env.reset(), **kwargs)


def check(rollout: Rollout, env: Any) -> None:
    """What must hold of every roll-out, with the env's own record of roles as the witness."""
    pad = env.get_attr("tokenizer")[0].pad_id
    for row in range(len(rollout)):
        mask, tokens = rollout.mask[row], rollout.tokens[row]
        n = int(mask.sum())
        assert mask.tolist() == [True] * n + [False] * (len(mask) - n)
        written = np.flatnonzero(rollout.infos[row]["roles"] == Role.ACTION)
        assert len(written) == n
        assert tokens[written].tolist() == rollout.actions[row, :n].tolist()
        # An action was chosen when the column before it was the last one with a token.
        assert rollout.columns[row, :n].tolist() == (written - 1).tolist()
        assert (tokens[written.max() + 1 :] == pad).all() or env.get_attr("task")[0].multi_turn
        for name in ("actions", "columns", "rewards", "log_probs", "values"):
            assert (getattr(rollout, name)[row, n:] == 0).all(), name
        assert rollout.infos[row]["episode"]["r"] == pytest.approx(
            float(rollout.rewards[row].sum()), abs=1e-5
        )
        assert rollout.infos[row]["episode"]["l"] == n
    terms = torch.stack(list(rollout.reward_terms.values())).sum(dim=0)
    torch.testing.assert_close(terms, rollout.episode_rewards)


@pytest.mark.parametrize("faces", ["native", "dummy"])
def test_single_turn_episodes(share: Any, gpt2: Any, faces: str) -> None:
    if faces == "native":
        env: Any = text_envs.make_sb3(share, num_envs=4, seed=0)
    else:
        env = DummyVecEnv([lambda: Monitor(TokenEnv(share))] * 4)
        env.seed(0)
    policy = policy_for(env, gpt2(16))
    torch.nn.init.normal_(policy.value_net[-1].weight)
    collected = play(env, policy, 12)
    assert collected.complete and len(collected.rollout) == 12
    check(collected.rollout, env)
    again = score(policy.actor, collected.rollout, batch_size=5)
    torch.testing.assert_close(again, collected.rollout.log_probs, rtol=1e-4, atol=1e-4)
    r = collected.rollout
    _, values, _ = policy.evaluate_episodes(r.tokens, r.columns, r.actions, r.mask)
    torch.testing.assert_close(values, r.values, rtol=1e-4, atol=1e-4)


def test_both_faces_play_the_same_episodes(share: Any, gpt2: Any) -> None:
    native = text_envs.make_sb3(share, num_envs=4, seed=0)
    dummy = DummyVecEnv([lambda: Monitor(TokenEnv(share))] * 4)
    dummy.seed(0)
    policy = policy_for(native, gpt2(16))
    one, other = (play(env, policy, 8).rollout for env in (native, dummy))
    for name in ("tokens", "actions", "columns", "rewards", "log_probs"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


def test_multi_turn_episodes(echo: Any, gpt2: Any) -> None:
    """Replies stand between actions; rewards are those of the turns."""
    env = text_envs.make_sb3(echo, num_envs=4, seed=0)
    policy = policy_for(env, gpt2(8))
    rollout = play(env, policy, 16).rollout
    check(rollout, env)
    assert any(
        (np.diff(c[m]) > 1).any() for c, m in zip(rollout.columns, rollout.mask, strict=True)
    )
    torch.testing.assert_close(
        score(policy.actor, rollout), rollout.log_probs, rtol=1e-4, atol=1e-4
    )


def test_no_preference_for_short_episodes(gpt2: Any) -> None:
    """Every environment gives its share; taking whoever finishes first would bias the length."""
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8, seed=0)
    policy = policy_for(env, gpt2(6))
    with torch.no_grad():
        for parameter in policy.actor.lm.parameters():
            parameter.zero_()  # uniform over three tokens
    lengths = play(env, policy, 4000).rollout.lengths.float()
    expected = 1 / 3 * 1 + 2 / 9 * 2 + 4 / 9 * 3
    assert lengths.mean() == pytest.approx(expected, abs=4 * float(lengths.std()) / 4000**0.5)


def test_rows_that_are_done_are_idle(
    share: Any, gpt2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = text_envs.make_sb3(share, num_envs=8, seed=0)
    eos = env.get_attr("tokenizer")[0].eos_id
    policy = policy_for(env, gpt2(16), forbidden=range(3, 12))
    with torch.no_grad():
        for parameter in policy.actor.lm.parameters():
            parameter.zero_()  # uniform over four tokens, so that lengths differ
    sizes: list[int] = []
    act = policy.act
    monkeypatch.setattr(
        policy, "act", lambda obs, rows: (sizes.append(len(rows)), act(obs, rows))[1]
    )
    steps: list[dict[str, Any]] = []
    collected = play(env, policy, 8, on_step=lambda step: steps.append(step) is None)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 8
    assert sum(step["n_tokens"] for step in steps) == int(collected.rollout.mask.sum())
    assert sum(step["dones"].sum() for step in steps) == 8
    assert policy.idle_action not in (eos,)
    assert all((step["actions"] != eos).sum() >= 8 - step["n_tokens"] for step in steps)


def test_truncation_bootstraps(share: Any, gpt2: Any) -> None:
    env = text_envs.make_sb3(text_envs.TokenVectorEnv(share, num_envs=4, max_episode_steps=3))
    env.seed(0)
    policy = policy_for(env, gpt2(16), forbidden=[12])
    torch.nn.init.normal_(policy.value_net[-1].weight)
    rollout = play(env, policy, 8).rollout
    assert rollout.truncated.all() and (rollout.lengths == 3).all()
    with torch.no_grad():
        torch.testing.assert_close(rollout.bootstrap, policy.predict_values(rollout.tokens)[:, 0])
    whole = play(text_envs.make_sb3(share, num_envs=4), policy, 4).rollout
    assert not whole.truncated.any() and (whole.bootstrap == 0).all()


def test_stopping_keeps_finished_episodes(share: Any, gpt2: Any) -> None:
    env = text_envs.make_sb3(share, num_envs=4, seed=0)
    policy = policy_for(env, gpt2(16))
    done = []

    def until_five(step: dict[str, Any]) -> bool:
        done.append(int(step["dones"].sum()))
        return sum(done) < 5

    collected = play(env, policy, 16, on_step=until_five)
    assert not collected.complete and len(collected.rollout) == sum(done) >= 5
    check(collected.rollout, env)


def test_a_failing_environment_loses_nothing(share: Any, gpt2: Any) -> None:
    calls = []

    def flaky(episodes: Any) -> Any:
        calls.append(len(episodes))
        if len(calls) > 3:
            raise OSError("the judge is not reachable")
        return np.ones(len(episodes))

    env = text_envs.make_sb3(text_envs.TokenVectorEnv(share, num_envs=4, reward=flaky))
    policy = policy_for(env, gpt2(16))
    with pytest.raises(RewardModelError) as caught:
        play(env, policy, 400)
    partial = caught.value.partial_rollout  # type: ignore[attr-defined]
    assert len(partial) >= 3 and partial.episode_rewards.eq(1).all()
    check(partial, env)
    if hasattr(caught.value, "__notes__"):
        assert "partial_rollout" in caught.value.__notes__[0]


def test_counts_that_do_not_divide_are_refused(share: Any, gpt2: Any) -> None:
    env = text_envs.make_sb3(share, num_envs=4)
    policy = policy_for(env, gpt2(16))
    with pytest.raises(ValueError, match="multiple of num_envs=4, got 6"):
        play(env, policy, 6)


def test_goes_through_gymnasium_ids(gpt2: Any) -> None:
    env = DummyVecEnv([lambda: gym.make("text_envs/Toy-v0")] * 2)
    rollout = play(env, policy_for(env, gpt2(6)), 4).rollout
    assert len(rollout) == 4 and "Rollout(4 episodes" in repr(rollout)
    partition = torch.cat(list(rollout.minibatches(3)))
    assert sorted(partition.tolist()) == [0, 1, 2, 3]


def test_the_monitor_s_returns_are_what_is_reported() -> None:
    env = VecNormalize(make_vec_env("text_envs/Maze-v0", 4, seed=0), norm_obs=False)
    agent = PPO("CausalLMPolicy", env, n_episodes=8, policy_kwargs={"model": "scratch"}).learn(1)
    returns = [info["episode"]["r"] for info in agent.rollout.infos]  # type: ignore[union-attr]
    assert [entry["r"] for entry in agent.ep_info_buffer or ()] == pytest.approx(returns)
    assert agent.rollout is not None
    assert agent.rollout.episode_rewards.tolist() != pytest.approx(returns)
    blurred = PPO("CausalLMPolicy", VecNormalize(env.venv), policy_kwargs={"model": "scratch"})
    with pytest.raises(
        ValueError, match="token ids, got float32; accepted: VecNormalize with norm"
    ):
        blurred.learn(1)


def test_a_callback_that_plays_in_the_training_environment_is_told_so() -> None:
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=2, seed=0)
    agent = PPO("CausalLMPolicy", env, n_episodes=8, policy_kwargs={"model": "scratch"}, seed=0)
    callback = EvalCallback(env, eval_freq=1, n_eval_episodes=2, verbose=0, warn=False)
    with pytest.raises(RuntimeError, match="an environment of their own"):
        agent.learn(50, callback=callback)
