"""Roll-outs by agent and guide: whose tokens are whose, replies, rewards, failures."""

from __future__ import annotations

import doctest
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import Echo
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Share, iid_lm, tiny_gpt2
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import text_envs
from agents import CausalLMPolicy, policy_kwargs_for
from agents.rollouts import guided as guided_rollouts
from agents.rollouts.episodes import score
from agents.rollouts.guided import guide_finishes, guide_starts, native_engine, switch_points
from agents.rollouts.rollout import Rollout
from text_envs import EpisodeBatch, Role, exact
from text_envs.episodes.errors import GuideError, RewardModelError
from text_envs.guides import Query
from text_envs.guides.roll_in import GuidedStarts
from text_envs.guides.shaping import ReferenceShaping
from text_envs.policies.functions import as_log_probs

A, B, EOS = 0, 1, 2  # Toy's tokens
SAY, HELLO, BYE, YES, END = 0, 1, 2, 3, 4  # Echo's tokens


def policy_for(env: Any, model: Any = None, seed: int = 0) -> CausalLMPolicy:
    torch.manual_seed(seed)
    task = env.get_attr("task")[0]
    model = tiny_gpt2(task.tokenizer.vocab_size) if model is None else model
    policy = CausalLMPolicy(
        env.observation_space, env.action_space, lambda _: 1e-3, **policy_kwargs_for(env, model)
    )
    torch.nn.init.normal_(policy.value_net[-1].weight)
    policy.set_training_mode(False)
    return policy


def play(play_with: Any, env: Any, guide: Any, beta: float = 1.0, **kwargs: Any) -> Any:
    """Return a roll-out, the facts and the plug-in; the policy is a small random one."""
    starts = GuidedStarts(guide, beta)
    starts.bind(env.get_attr("task")[0])
    policy = kwargs.pop("policy", None) or policy_for(env)
    collected, facts = play_with(policy, env, starts, lambda _: True, **kwargs)
    return collected.rollout, facts, starts, policy


def yes_man(query: Query) -> list[list[int]]:
    """Speak one of two words a turn, from the row's generator, or say bye."""
    return [[int(rng.choice([HELLO, YES, BYE])), END] for rng in query.rngs]


def test_the_card() -> None:
    assert doctest.testmod(guided_rollouts).failed == 0


# -- h -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to_the_end", "accepted"), [(False, [1, 2, 3]), (True, [1, 2, 3, 4])])
def test_switch_points_are_uniform(to_the_end: bool, accepted: list[int]) -> None:
    n = 6000
    rngs = [np.random.default_rng(i) for i in range(n)]
    points = switch_points(np.full(n, 4), 0.75, rngs, to_the_end=to_the_end)
    values, counts = np.unique(points, return_counts=True)
    assert values.tolist() == [0, *accepted]
    shares = np.array([0.25] + [0.75 / len(accepted)] * len(accepted))
    assert (np.square(counts - n * shares) / (n * shares)).sum() < 18.5  # chi-square, p = 0.001


def test_short_texts_have_no_seam() -> None:
    rngs = [np.random.default_rng(i) for i in range(50)]
    assert not switch_points(np.ones(50, dtype=np.int64), 1.0, rngs).any()
    assert (switch_points(np.ones(50, dtype=np.int64), 1.0, rngs, to_the_end=True) == 1).all()


# -- the guide begins ----------------------------------------------------------------------------


def test_guide_starts() -> None:
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=64, seed=0)
    rollout, facts, starts, policy = play(
        guide_starts, env, "script:expert", policy=toy_policy(env)
    )
    assert starts.queries.calls == 1 and starts.queries.rows == 64
    seams = [info["seam"] for info in rollout.infos]
    assert set(seams) == {1, 2} and facts["prefix_length"] == np.mean(seams) and facts["seams"] == 1
    for row, (info, h) in enumerate(zip(rollout.infos, seams, strict=True)):
        assert (info["roles"] == Role.PREFIX).sum() == h
        written = rollout.tokens[row, 1:][: h + int(rollout.lengths[row])].tolist()
        assert written[:h] == [A, B, EOS][:h]
        assert rollout.actions[row][rollout.mask[row]].tolist() == written[h:]
        assert rollout.columns[row, 0] == h  # the last one that the guide wrote
    assert rollout.policy_mask is None and rollout.critic_mask is None
    torch.testing.assert_close(score(policy.actor, rollout), rollout.log_probs)


def toy_policy(env: Any) -> CausalLMPolicy:
    return policy_for(env, iid_lm((0.5, 0.3, 0.2)))


# -- the guide finishes --------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda env: env, VecMonitor])
@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
def test_guide_finishes(wrap: Any) -> None:
    env = wrap(text_envs.make_sb3(Share(), num_envs=32, seed=0))

    def w5(query: Query) -> list[list[int]]:
        return [[5] * int(room) for room in query.room]

    rollout, facts, starts, policy = play(guide_finishes, env, w5, beta=0.8)
    assert (starts.queries.calls, starts.queries.rows) == (1, 32)
    points = torch.tensor([info["seam"] for info in rollout.infos])
    assert set(points.tolist()) == set(range(6))
    assert facts["seams"] == float((points > 0).float().mean())
    assert facts["prefix_length"] == float(points.float().mean())
    steps = torch.arange(rollout.mask.shape[1])
    by_agent = rollout.mask & (steps < points[:, None])
    assert torch.equal(rollout.policy_mask, by_agent)
    assert torch.equal(rollout.critic_mask, rollout.mask & ~by_agent)
    assert (rollout.actions[rollout.critic_mask] == 5).all()
    # All that a roll-out says is so: prompts, texts, rewards, probabilities, values.
    written = rollout.tokens[:, 6:]
    assert torch.equal(written[rollout.mask], rollout.actions[rollout.mask])
    assert torch.equal(
        rollout.columns[rollout.mask], (steps + 5).expand_as(rollout.mask)[rollout.mask]
    )
    share = (written == 3).double().mean(dim=1)
    torch.testing.assert_close(rollout.episode_rewards.double(), share, atol=1e-6, rtol=0)
    torch.testing.assert_close(rollout.reward_terms["task"], rollout.episode_rewards)
    assert ((rollout.rewards != 0).sum(dim=1) <= 1).all()
    log_probs, values, _ = policy.evaluate_episodes(
        rollout.tokens, rollout.columns, rollout.actions, rollout.mask
    )
    torch.testing.assert_close(rollout.log_probs, torch.where(by_agent, log_probs, 0.0))
    torch.testing.assert_close(rollout.values, values)
    for row, info in enumerate(rollout.infos):
        h = int(points[row])
        assert (info["roles"] == Role.ACTION).sum() == h <= info["roll_in_length"] - 1 or h == 0
        assert (info["roles"] == Role.PREFIX).sum() == rollout.lengths[row] - h
        assert info["text"] == env.get_attr("tokenizer")[0].decode(written[row].tolist())
        assert info["finish_reason"] in ("stop", "length")


def test_without_a_seam_the_guide_writes_all() -> None:
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8, seed=0)
    rollout, facts, *_ = play(guide_finishes, env, "script:expert", 0.0, policy=toy_policy(env))
    assert facts["seams"] == facts["prefix_length"] == 0
    assert not rollout.policy_mask.any() and rollout.critic_mask.sum() == 24
    assert rollout.episode_rewards.tolist() == [1.5] * 8


def test_whole_texts_may_be_the_agents() -> None:
    """Where h = l, nothing is asked, and the text earns what it earned."""
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=256, seed=0)
    arguments = {"policy": toy_policy(env)}
    short, *_ = play(guide_finishes, env, "script:expert", **arguments)
    assert all(info["seam"] < info["roll_in_length"] for info in short.infos)
    assert not (short.actions[short.policy_mask] == EOS).any()
    rollout, _, starts, _ = play(guide_finishes, env, "script:expert", to_the_end=True, **arguments)
    whole = torch.tensor([info["seam"] == info["roll_in_length"] for info in rollout.infos])
    assert 0.3 < whole.float().mean() < 0.7 and starts.queries.rows == 256 - int(whole.sum())
    assert (rollout.actions[rollout.policy_mask] == EOS).any()
    assert torch.equal(rollout.policy_mask[whole], rollout.mask[whole])
    texts = rollout.tokens[:, 1:]
    pairs = ((texts[:, :-1] == A) & (texts[:, 1:] == B)).any(dim=1)
    ends = torch.tensor([info["finish_reason"] == "stop" for info in rollout.infos])
    torch.testing.assert_close(rollout.episode_rewards, pairs + 0.5 * ends)


def test_expected_rewards_are_those_of_exact() -> None:
    """After one action of the agent, the mean reward is Q of the guide."""
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=512, seed=0)
    guide = iid_lm((0.3, 0.4, 0.3))
    q = exact.q_of("text_envs/Toy-v0", guide).q(np.array([4, 3, 3, 3]))
    policy, parts = toy_policy(env), []
    for _ in range(16):
        parts.append(play(guide_finishes, env, guide, policy=policy, to_the_end=True)[0])
    rollout = Rollout.cat(parts)
    one = torch.tensor([info["seam"] == 1 for info in rollout.infos])
    for action in (A, B, EOS):
        rewards = rollout.episode_rewards[one & (rollout.actions[:, 0] == action)]
        assert rewards.mean() == pytest.approx(q[action], abs=4.5 * 0.7 / len(rewards) ** 0.5)


# -- several turns -------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), limit=st.sampled_from([None, 2, 3]))
def test_random_replies_come_again_in_the_copies(seed: int, rows: int, limit: int | None) -> None:
    task = Echo(max_turn_tokens=limit)
    env = text_envs.make_sb3(task, num_envs=rows, seed=seed)
    owned: list[Any] = []

    def watch(step: dict[str, Any]) -> bool:
        owned.extend(
            (row, step["infos"][row]["terminal_observation"])
            for row in np.flatnonzero(step["dones"]).tolist()
        )
        return True

    starts = GuidedStarts(yes_man, 1.0)
    starts.bind(task)
    policy = policy_for(env, seed=seed)
    rollout = guide_finishes(policy, env, starts, watch)[0].rollout
    own = dict(owned)
    for row, info in enumerate(rollout.infos):
        roles, h = info["roles"], info["seam"]
        if h:
            last = np.flatnonzero(roles == Role.ACTION)[-1]
            # The reply to a turn comes with its last token.
            assert np.array_equal(rollout.tokens[row, : last + 1], own[row][: last + 1])
        assert (roles == Role.ACTION).sum() == h
        at = np.flatnonzero((roles == Role.ACTION) | (roles == Role.PREFIX))
        assert rollout.actions[row][rollout.mask[row]].tolist() == rollout.tokens[row, at].tolist()
        assert rollout.columns[row][rollout.mask[row]].tolist() == (at - 1).tolist()
        # Each turn costs 1, the last one nothing if it says bye; the last reply may not fit.
        replies = ((roles[1:] == Role.REPLY) & (roles[:-1] != Role.REPLY)).sum()
        assert 0 <= -rollout.episode_rewards[row] - replies <= 1
        assert rollout.reward_terms["task"][row] == rollout.episode_rewards[row]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_turns_that_the_guide_begins(seed: int) -> None:
    env = text_envs.make_sb3(Echo(), num_envs=4, seed=seed)
    rollout, *_ = play(guide_starts, env, yes_man)
    for row, info in enumerate(rollout.infos):
        assert (info["roles"] == Role.PREFIX).sum() == info["seam"]
        at = np.flatnonzero(info["roles"] == Role.ACTION)
        assert rollout.actions[row][rollout.mask[row]].tolist() == rollout.tokens[row, at].tolist()


def test_turns_of_a_batch_go_to_the_guide_together() -> None:
    env = text_envs.make_sb3(Echo(), num_envs=16, seed=0)
    _, _, starts, _ = play(guide_finishes, env, yes_man)
    assert starts.queries.calls <= 6 and starts.queries.rows > 16


# -- everything that pays ------------------------------------------------------------------------


def lottery(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
    assert episodes.rngs is not None
    return np.array([rng.random() for rng in episodes.rngs])


@pytest.mark.parametrize("played", [guide_starts, guide_finishes])
@pytest.mark.parametrize("task", [Share, Echo])
def test_seeds_fix_everything(played: Any, task: Any) -> None:
    def once(seed: int) -> Rollout:
        env = text_envs.make_sb3(task(), num_envs=8, seed=seed, reward=lottery)
        guide = tiny_gpt2(env.get_attr("tokenizer")[0].vocab_size, seed=5)
        found = play(played, env, guide)[0]
        assert isinstance(found, Rollout)
        return found

    one, other, third = once(1), once(1), once(2)
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.rewards, other.rewards)
    assert not torch.equal(one.tokens, third.tokens)


def test_shaping_pays_agent_and_guide() -> None:
    reference = np.log([0.5, 0.3, 0.2])
    shaping = ReferenceShaping(lambda tokens: np.tile(reference, (len(tokens), 1)), beta=0.5)
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=16, seed=0, shaping=shaping)
    rollout, *_ = play(guide_finishes, env, "script:expert", policy=toy_policy(env))
    earned = 0.5 * torch.from_numpy(reference).float()[rollout.actions] * rollout.mask
    torch.testing.assert_close(rollout.reward_terms["shaping"], earned.sum(dim=1))
    total = rollout.reward_terms["shaping"] + rollout.reward_terms["task"]
    torch.testing.assert_close(rollout.episode_rewards, total)


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([A] * 9, "9 tokens"),
        ([], "nothing"),
        ("", "nothing"),
        ([A, 17], "token 17 at place 1, which may not be written"),
        ("c", "may not be written"),
        (None, "neither a text nor token ids"),
    ],
)
def test_bad_completions_lose_nothing(answer: Any, message: str) -> None:
    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=4, seed=0)
    policy = toy_policy(env)
    with pytest.raises(GuideError, match=message) as caught:
        play(guide_finishes, env, lambda query: [answer] * len(query), policy=policy)
    partial: Any = caught.value.partial_rollout  # type: ignore[attr-defined]
    assert len(partial) == 4 and partial.episode_rewards.sum() > 0
    torch.testing.assert_close(score(policy.actor, partial), partial.log_probs)
    assert caught.value.received == [answer] * len(caught.value.received)
    with pytest.raises(GuideError, match=message):
        play(guide_starts, env, lambda query: [answer] * len(query), policy=policy)
    rollout, *_ = play(guide_finishes, env, "script:expert", policy=policy)
    assert len(rollout) == 4  # and it goes on


def test_rewards_that_fail_lose_nothing() -> None:
    def flaky(episodes: EpisodeBatch) -> Any:
        if (episodes.roles == Role.PREFIX).any():
            raise OSError("busy")
        return np.ones(len(episodes))

    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=4, seed=0, reward=flaky)
    with pytest.raises(RewardModelError, match="busy") as caught:
        play(guide_finishes, env, "script:expert", policy=toy_policy(env))
    assert caught.value.partial_rollout.episode_rewards.tolist() == [1.0] * 4  # type: ignore[attr-defined]


def test_environments_that_cannot_have_a_guide_are_refused() -> None:
    looped = make_vec_env("text_envs/Toy-v0", n_envs=2)
    with pytest.raises(ValueError, match="all rows in one batch, got DummyVecEnv"):
        native_engine(looped)
    with pytest.raises(ValueError, match="all rows in one batch"):
        native_engine(make_vec_env("CartPole-v1", n_envs=1))
    guided = text_envs.make_sb3("text_envs/Toy-v0", starts=GuidedStarts("script:expert"))
    with pytest.raises(ValueError, match="has a guide of its own"):
        native_engine(guided)
    single = make_vec_env("text_envs/Toy-v0", n_envs=1)
    rollout, *_ = play(guide_finishes, single, "script:expert", policy=toy_policy(single))
    assert len(rollout) == 1


def test_what_wrappers_make_of_rewards_and_ends_is_not_dropped_unsaid() -> None:
    """Copies of the rows have no wrappers: the guide's texts would be paid another way."""
    scaled = VecNormalize(
        text_envs.make_sb3(Share(), num_envs=4, seed=0), norm_obs=False, norm_reward=True
    )
    single = gym.wrappers.TransformReward(gym.make("text_envs/Toy-v0"), lambda reward: 1 + reward)
    short = text_envs.make_sb3(Share(), num_envs=4, seed=0, max_episode_steps=1)
    for env, message in (
        (scaled, "a wrapper made .* of the reward .* of text .*accepted: reward="),
        (DummyVecEnv([lambda: single]), "a wrapper made .* of the reward"),
        (short, "an outer limit cut text . after 1 steps.*accepted: max_tokens"),
    ):
        guide = "script:expert" if env.num_envs == 1 else lambda query: [[5, 12]] * len(query)
        with pytest.raises(ValueError, match=message) as caught:
            play(guide_finishes, env, guide)
        assert len(caught.value.partial_rollout) == env.num_envs  # type: ignore[attr-defined]
    rollout, *_ = play(guide_starts, short, lambda query: [[5, 5, 12]] * len(query))
    assert rollout.truncated.any() and (rollout.lengths == 1).all()  # the agent's own tokens


def test_an_agent_that_stops_at_once() -> None:
    env = gym.make_vec("text_envs/Toy-v0", num_envs=4)
    venv = text_envs.make_sb3(env.unwrapped)
    guide = as_log_probs(lambda tokens: np.log([[0.4, 0.4, 0.2]] * len(tokens)), env.unwrapped.task)
    policy = policy_for(venv, iid_lm((1e-9, 1e-9, 1 - 2e-9)))
    rollout, facts, *_ = play(guide_finishes, venv, guide, policy=policy)
    assert facts["seams"] == 0 and facts["own_reward"] == 0.5
    assert not rollout.policy_mask.any()


# -- joining -------------------------------------------------------------------------------------


def test_roll_outs_with_and_without_masks_are_joined() -> None:
    env = text_envs.make_sb3(Share(), num_envs=4, seed=0)
    plain, *_, policy = play(guide_starts, env, lambda q: [[5, 12]] * len(q))
    masked, *_ = play(guide_finishes, env, lambda q: [[5, 12]] * len(q), policy=policy)
    joined = Rollout.cat([plain, masked])
    assert len(joined) == 8 and len(joined.infos) == 8
    width = plain.mask.shape[1]
    assert torch.equal(joined.policy_mask[:4, :width], plain.mask)
    assert torch.equal(joined.critic_mask[4:, : masked.mask.shape[1]], masked.critic_mask)
    assert not (joined.policy_mask & ~joined.mask).any()
    assert Rollout.cat([plain, plain]).policy_mask is None
