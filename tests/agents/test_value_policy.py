"""Guided decoding: the distribution, its caches, its settings, whole utterances."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import Echo
from models import tiny_gpt2
from offline_helpers import Passes, shake
from stable_baselines3.common.evaluation import evaluate_policy

import text_envs
from agents import CausalLMPolicy, policy_kwargs_for
from agents.policies.utterances import judge, sample_utterances
from agents.policies.value_guided import ValueGuidedPolicy
from agents.rollouts.episodes import collect_episodes

WORDS, PAD, BOS = 17, 18, 19
COLUMNS = 10


def make_policy(lm: Any, **kwargs: Any) -> ValueGuidedPolicy:
    arguments: dict[str, Any] = {"model": lm, "pad_id": PAD, "bos_id": BOS, "prompt_length": 4}
    policy = ValueGuidedPolicy(
        spaces.Box(0, 19, (COLUMNS,), np.int64),
        spaces.Discrete(WORDS),
        lambda _: 1e-3,
        **(arguments | {"eos_id": 16, "beta": 2.0} | kwargs),
    )
    shake(policy.critic, 1)
    shake(policy.target, 2)
    return policy


def observations(n: int = 5, length: int = 6) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    tokens = np.full((n, COLUMNS), PAD, dtype=np.int64)
    for row in range(n):
        tokens[row, row % 3 : length] = rng.integers(0, WORDS, length - row % 3)
    return tokens


def at_last(trunk: Any, obs: torch.Tensor, column: int = 5) -> torch.Tensor:
    columns = torch.full((len(obs), 1), column)
    hidden: torch.Tensor = trunk.encode(obs, columns, torch.ones_like(columns, dtype=torch.bool))
    return hidden


# -- the distribution --------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.5])
def test_scores_are_the_language_model_s_plus_beta_times_the_advantage(clip: Any) -> None:
    policy = make_policy(tiny_gpt2(20), advantage_clip=clip)
    obs = torch.from_numpy(observations())
    with torch.no_grad():
        found = policy.get_distribution(obs).distribution.logits
        log_pi = policy.actor.logits(at_last(policy.actor, obs)).log_softmax(1)
        q = policy.target.q(at_last(policy.target, obs)).amin(dim=0)
        v = policy.critic.v(at_last(policy.critic, obs))
    advantages = q - v[:, None]
    assert float(advantages.abs().max()) > 0.5
    if clip is not None:
        advantages = advantages.clamp(-clip, clip)
    wanted = (log_pi + 2.0 * advantages).log_softmax(1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    values = policy.predict_values(obs)
    torch.testing.assert_close(values[:, 0], v, rtol=1e-4, atol=1e-4)


def test_all_ways_of_scoring_agree(any_lm: Any) -> None:
    """forward, act, evaluate_actions, get_distribution and evaluate_episodes: the same numbers.

    The first two decode with caches, the others encode whole texts.
    """
    policy = make_policy(
        any_lm, forbidden=[2, 5], temperature=0.7, top_k=9, top_p=0.9, advantage_clip=1.0
    )
    tokens = observations()
    obs = torch.from_numpy(tokens)
    with torch.no_grad():
        torch.manual_seed(0)
        actions, values, log_probs = policy(obs)
        cached = policy.get_distribution(obs).distribution.logits
    torch.manual_seed(0)
    acted = policy.act(tokens, np.arange(5))
    assert acted[0].tolist() == actions.tolist() and acted[3].tolist() == [5] * 5
    np.testing.assert_allclose(acted[1], values[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(acted[2], log_probs, rtol=1e-4, atol=1e-4)
    again, scored, entropies = policy.evaluate_actions(obs, actions)
    distribution = policy.get_distribution(obs).distribution
    torch.testing.assert_close(scored, log_probs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(distribution.probs, cached.softmax(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(distribution.log_prob(actions), scored, rtol=1e-4, atol=1e-4)
    assert distribution.probs[:, [2, 5]].abs().max() == 0
    assert int((distribution.probs > 0).sum(dim=1).max()) <= 9
    columns = torch.full((5, 1), 5)
    mask = torch.ones(5, 1, dtype=torch.bool)
    episode = policy.evaluate_episodes(obs, columns, actions[:, None], mask, with_entropy=True)
    for one, other in zip(episode, (scored, again.squeeze(1), entropies), strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one.squeeze(1), other, rtol=1e-4, atol=1e-4)


def test_without_guidance_it_is_the_language_model() -> None:
    """beta = 0: the same samples as behaviour cloning would draw, and no value trunk is run."""
    lm = tiny_gpt2(20)
    guided = make_policy(lm, beta=0.0, temperature=0.8)
    plain = CausalLMPolicy(
        guided.observation_space, guided.action_space, lambda _: 1e-3, model=copy.deepcopy(lm),
        pad_id=PAD, bos_id=BOS, prompt_length=4, temperature=0.8,
    )  # fmt: skip
    passes = Passes(guided)
    tokens = np.repeat(observations(), 40, axis=0)
    samples = []
    for policy in (guided, plain):
        torch.manual_seed(3)
        samples.append(policy.predict(tokens)[0])
    assert np.array_equal(*samples) and len(np.unique(samples[0])) > 5
    with torch.no_grad():
        logits = [
            p.get_distribution(torch.from_numpy(tokens)).distribution for p in (guided, plain)
        ]
    assert torch.equal(logits[0].logits, logits[1].logits)
    counts = passes.take()
    assert counts["actor"] > 0 == counts["critic"] == counts["target"]


def test_a_constant_added_to_v_matters_only_with_a_clip() -> None:
    obs = torch.from_numpy(np.repeat(observations(), 40, axis=0))
    for clip, same in ((None, True), (0.5, False)):
        policy = make_policy(tiny_gpt2(20), advantage_clip=clip)
        samples = []
        for _ in range(2):
            torch.manual_seed(0)
            with torch.no_grad():
                samples.append(policy(obs)[0])
                policy.critic.heads["v"][-1].bias += 1.0
        assert torch.equal(*samples) is same


def test_trunks_that_do_not_matter_are_not_run() -> None:
    policy = make_policy(tiny_gpt2(20))
    tokens = observations()
    policy.predict(tokens)  # which also tries the caches out
    passes = Passes(policy)
    longer = tokens.copy()
    longer[:, 6] = 3
    policy.predict(longer)
    assert passes.take() == {"actor": 5, "critic": 0, "target": 5}
    policy.advantage_clip = 1.0
    policy.predict(tokens)
    passes.take()
    policy.predict(longer)
    counts = passes.take()
    assert counts["actor"] == counts["target"] == 5


@pytest.mark.parametrize("clip", [None, 0.5])
def test_caches_follow_dialogues(clip: Any) -> None:
    """Replies, restarts and all: a played dialogue's scores equal those of one whole pass."""
    env = text_envs.make_sb3(Echo(max_tokens=20, max_turn_tokens=2), num_envs=6, seed=0)
    policy = guided_on(env, advantage_clip=clip, beta=0.3)
    torch.manual_seed(0)
    rollout = collect_episodes(policy, env, 18, env.reset()).rollout
    replies = (rollout.columns[:, 1:] > rollout.columns[:, :-1] + 1) & rollout.mask[:, 1:]
    assert int(replies.sum()) > 5
    with torch.no_grad():
        log_probs, values, _ = policy.evaluate_episodes(
            rollout.tokens, rollout.columns, rollout.actions, rollout.mask
        )
    torch.testing.assert_close(rollout.log_probs, log_probs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rollout.values, values, rtol=1e-3, atol=1e-4)


def test_caches_notice_new_weights() -> None:
    policy = make_policy(tiny_gpt2(20))
    obs = torch.from_numpy(observations())
    with torch.no_grad():
        before = policy.get_distribution(obs).distribution.logits
        for part in (policy.actor, policy.target):
            shake(part, 7)
            fresh = copy.deepcopy(policy).get_distribution(obs).distribution.logits
            after = policy.get_distribution(obs).distribution.logits
            torch.testing.assert_close(after, fresh)
            assert not torch.allclose(after, before, atol=1e-2)
            before = after


def test_divergence_is_reported() -> None:
    policy = make_policy(tiny_gpt2(20))
    with torch.no_grad():
        policy.target.heads["q1"][-1].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        policy.act(observations(), np.arange(5))


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        ("beta", 4.0, -1.0, "beta must be at least 0.*, got -1.0"),
        ("beta", 0.0, float("inf"), "beta must be at least 0"),
        ("top_k", 3, 0, "top_k must be None or an integer above 0, got 0"),
        ("top_p", 0.5, 1.5, r"top_p must be None or in \(0, 1\], got 1.5"),
        ("advantage_clip", 2.0, 0.0, "advantage_clip must be None or above 0, got 0.0"),
        ("log_prob_weight", 0.1, -0.1, "log_prob_weight must be at least 0.*, got -0.1"),
        ("top_p", 0.9, "most", "top_p must be None or .*, got 'most'"),
    ],
)
def test_settings_change_after_training_and_are_saved(
    name: str, good: Any, bad: Any, message: str, tmp_path: Path
) -> None:
    policy = make_policy(tiny_gpt2(20))
    with pytest.raises(ValueError, match=message):
        setattr(policy, name, bad)
    setattr(policy, name, good)
    policy.save(tmp_path / "policy")
    loaded = ValueGuidedPolicy.load(tmp_path / "policy", device="cpu")
    assert getattr(loaded, name) == good
    with pytest.raises(ValueError, match=message):
        make_policy(tiny_gpt2(20), **{name: bad})
    obs = torch.from_numpy(observations())
    with torch.no_grad():
        one, other = (p.get_distribution(obs).distribution.probs for p in (policy, loaded))
    torch.testing.assert_close(one, other)


def test_temperature_changes_after_training_and_is_saved(tmp_path: Path) -> None:
    policy = make_policy(tiny_gpt2(20))
    for bad in (0.0, -1.0, float("nan"), None, "hot"):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            policy.actor.temperature = bad
    policy.actor.temperature = 0.25
    policy.save(tmp_path / "policy")
    assert ValueGuidedPolicy.load(tmp_path / "policy", device="cpu").actor.temperature == 0.25
    assert policy.arguments["temperature"] == 1.0  # as it was made


def test_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown variant 'tokens'.*Did you mean 'token'"):
        make_policy(tiny_gpt2(20), variant="tokens")


# -- whole utterances --------------------------------------------------------------------------


def guided_on(env: Any, **kwargs: Any) -> ValueGuidedPolicy:
    """Return a policy on `Echo`, whose turns may be limited."""
    arguments = policy_kwargs_for(env, tiny_gpt2(env.get_attr("tokenizer")[0].vocab_size))
    policy = ValueGuidedPolicy(
        env.observation_space, env.action_space, lambda _: 1e-3, **{**arguments, **kwargs}
    )
    shake(policy.critic, 1)
    shake(policy.target, 2)
    return policy


def test_sampled_utterances_end_where_they_should() -> None:
    env = text_envs.make_sb3(Echo(), num_envs=4)
    policy = guided_on(env, variant="utterance", max_turn_tokens=5)
    eos, pad = policy.arguments["eos_id"], policy.actor.pad_id
    obs = np.repeat(env.reset(), 50, axis=0)
    torch.manual_seed(0)
    sampled = sample_utterances(policy, obs)
    lengths = sampled.last + 1 - sampled.first
    assert lengths.max() == 5 and lengths.min() == 1
    for row in range(len(obs)):
        first, last = sampled.first[row], sampled.last[row]
        assert np.array_equal(sampled.tokens[row, :first], obs[row, :first])
        assert (sampled.tokens[row, last + 1 :] == pad).all()
        written = sampled.tokens[row, first : last + 1]
        assert (written[:-1] != eos).all() and (written[-1] == eos or lengths[row] == 5)
    # the log-probability is that of the language model alone
    steps = np.arange(5)
    mask = torch.from_numpy(steps < lengths[:, None])
    columns = torch.from_numpy(np.where(mask, sampled.first[:, None] - 1 + steps, 0))
    tokens = torch.from_numpy(sampled.tokens)
    with torch.no_grad():
        hidden = policy.actor.encode(tokens, columns, mask)
        log_probs, _ = policy.actor.log_probs(hidden, tokens.gather(1, columns + 1)[mask])
    total = torch.zeros(mask.shape).masked_scatter(mask, log_probs).sum(dim=1)
    np.testing.assert_allclose(sampled.log_probs, total, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["token", "utterance"])
def test_judging_equals_a_loop(variant: str) -> None:
    env = text_envs.make_sb3(Echo(), num_envs=4)
    policy = guided_on(env, variant=variant, candidates=3, log_prob_weight=0.5)
    sampled = sample_utterances(policy, env.reset())
    wanted = []
    with torch.no_grad():
        for row in range(4):
            tokens = torch.from_numpy(sampled.tokens[row : row + 1])
            first, last = int(sampled.first[row]), int(sampled.last[row])
            if variant == "utterance":
                wanted.append(float(policy.target.q(at_last(policy.target, tokens, last)).min()))
                continue
            score = 0.5 * float(sampled.log_probs[row])
            for column in range(first, last + 1):
                q = policy.target.q(at_last(policy.target, tokens, column - 1))
                v = policy.critic.v(at_last(policy.critic, tokens, column - 1))
                score += float(q[:, 0, tokens[0, column]].min() - v)
            wanted.append(score)
    np.testing.assert_allclose(judge(policy, sampled), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["token", "utterance"])
def test_the_best_candidate_is_written_out(variant: str) -> None:
    """Token by token, through replies and restarts, in every row on its own."""
    env = text_envs.make_sb3(Echo(max_tokens=12), num_envs=3, seed=0)
    policy = guided_on(env, variant=variant, candidates=4, max_turn_tokens=None)
    assert policy.plans is not None
    eos = policy.arguments["eos_id"]
    torch.manual_seed(0)
    obs: Any = env.reset()
    chosen: list[list[int]] = [[], [], []]  # what is left of the utterance that was chosen
    for _ in range(60):
        state = torch.get_rng_state()
        fresh = [row for row in range(3) if not chosen[row]]
        if fresh:  # the same draws as the policy is about to make
            sampled = sample_utterances(policy, np.repeat(obs[fresh], 4, axis=0))
            scores = judge(policy, sampled).reshape(-1, 4)
            for i, row in enumerate(fresh):
                j = 4 * i + int(scores[i].argmax())
                chosen[row] = sampled.tokens[j, sampled.first[j] : sampled.last[j] + 1].tolist()
            torch.set_rng_state(state)
        actions, _ = policy.predict(obs, deterministic=True)
        assert actions.tolist() == [chosen[row].pop(0) for row in range(3)]
        obs, _, dones, _ = env.step(actions)
        for row in np.flatnonzero(dones).tolist():
            chosen[row] = []
        assert all(not left for a, left in zip(actions, chosen, strict=True) if a == eos)


def test_choosing_among_utterances_raises_what_is_chosen_for() -> None:
    """With Q that counts, more candidates give a higher score of what is written."""
    env = text_envs.make_sb3(Echo(), num_envs=32, seed=0)
    obs = env.reset()
    means = []
    for candidates in (1, 4, 16):
        policy = guided_on(env, variant="utterance", candidates=candidates)
        torch.manual_seed(0)
        _, values, log_probs, columns = policy.act(obs, np.arange(32))
        assert np.isnan(log_probs).all() and (columns == 3).all()
        means.append(values.mean())
    assert means == sorted(means) and means[0] < means[2]


def test_plans_belong_to_texts_and_weights() -> None:
    env = text_envs.make_sb3(Echo(), num_envs=2, seed=0)
    policy = guided_on(env, variant="utterance")
    assert policy.plans is not None and policy.plans.candidates == 4
    obs: Any = env.reset()
    policy.predict(obs)
    waiting = [plan for same in policy.plans.waiting.values() for plan in same]
    assert len(waiting) == 2 and all(plan.left for plan in waiting)
    policy.set_training_mode(True)
    assert not policy.plans.waiting
    policy.predict(obs)
    again, _ = policy.predict(obs)  # the rows did not move on: nothing is left of the old plans
    assert again.shape == (2,)


def test_a_plan_is_followed_wherever_its_text_stands() -> None:
    """Rows that come, go and change places leave the utterances that are being written alone."""
    env = text_envs.make_sb3(Echo(max_tokens=12), num_envs=3, seed=1)
    policy = guided_on(env, variant="utterance", candidates=2, max_turn_tokens=None)
    assert policy.plans is not None
    obs: Any = env.reset()
    obs[2] = obs[0]  # equal texts have a plan each
    pad, order = env.get_attr("tokenizer")[0].pad_id, [2, 1, 0]
    for _ in range(20):
        actions, _ = policy.predict(obs)
        waiting = policy.plans.waiting
        for row in range(3):
            obs[row, np.flatnonzero(obs[row] != pad)[-1] + 1] = actions[row]
        if all(row.tobytes() in waiting for row in obs):
            break
        obs = env.reset()  # an utterance of one token
    left = {key: [plan.left[0] for plan in same] for key, same in waiting.items()}
    shown = obs[order[:2]]
    actions, _ = policy.predict(shown)
    assert all(a in left[row.tobytes()] for a, row in zip(actions, shown, strict=True))
    assert sum(map(len, policy.plans.waiting.values())) <= 2  # the third is forgotten
    single, _ = policy.predict(obs[0])
    assert single.shape == ()


def test_utterances_play_through_stable_baselines3() -> None:
    env = text_envs.make_sb3(Echo(max_tokens=12, max_turn_tokens=2), num_envs=4, seed=0)
    policy = guided_on(env, variant="utterance", max_turn_tokens=2)
    results = []
    for _ in range(2):
        env.seed(0)
        torch.manual_seed(0)
        results.append(evaluate_policy(policy, env, 16, return_episode_rewards=True))
    assert results[0] == results[1]


def test_a_policy_of_utterances_has_no_distribution_over_tokens() -> None:
    policy = make_policy(tiny_gpt2(20), variant="utterance")
    with pytest.raises(ValueError, match="candidates=4 utterances has no distribution"):
        policy.get_distribution(torch.from_numpy(observations()))
    full = observations(length=COLUMNS)
    with pytest.raises(ValueError, match="observation 0 has no empty column"):
        policy.predict(full)
