"""`CausalLMPolicy`: one distribution for sampling and scoring, values, Stable-Baselines3's face."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import text_envs
from agents import CausalLMPolicy, policy_kwargs_for

WORDS, PAD, BOS = 17, 18, 19
COLUMNS = 10


def make_policy(lm: Any, **kwargs: Any) -> CausalLMPolicy:
    arguments: dict[str, Any] = {"model": lm, "pad_id": PAD, "bos_id": BOS, "prompt_length": 4}
    return CausalLMPolicy(
        spaces.Box(0, 19, (COLUMNS,), np.int64),
        spaces.Discrete(WORDS),
        lambda _: 1e-3,
        **(arguments | kwargs),
    )


def observations(n: int = 5, length: int = 6) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    tokens = np.full((n, COLUMNS), PAD, dtype=np.int64)
    for row in range(n):
        tokens[row, row % 3 : length] = rng.integers(0, WORDS, length - row % 3)
    return tokens


def test_all_ways_of_scoring_agree(any_lm: Any) -> None:
    """forward, evaluate_actions, get_distribution and evaluate_episodes: the same numbers."""
    policy = make_policy(any_lm, forbidden=[2, 5], temperature=0.7)
    torch.nn.init.normal_(policy.value_net[-1].weight)
    obs = torch.from_numpy(observations())
    with torch.no_grad():
        actions, values, log_probs = policy(obs)
        cached = policy.get_distribution(obs).distribution.logits
    again, scored, entropies = policy.evaluate_actions(obs, actions)
    distribution = policy.get_distribution(obs).distribution
    torch.testing.assert_close(scored, log_probs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(policy.predict_values(obs), values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(distribution.log_prob(actions), scored, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(distribution.logits, cached, rtol=1e-4, atol=1e-4)
    assert entropies is not None
    torch.testing.assert_close(distribution.entropy(), entropies, rtol=1e-4, atol=1e-4)
    assert distribution.probs[:, [2, 5]].abs().max() == 0
    columns = torch.full((5, 1), 5)
    episode = policy.evaluate_episodes(
        obs, columns, actions[:, None], torch.ones(5, 1, dtype=torch.bool), with_entropy=True
    )
    for one, other in zip(episode, (scored, again.squeeze(1), entropies), strict=True):
        assert one is not None
        torch.testing.assert_close(one.squeeze(1), other, rtol=1e-4, atol=1e-4)


def test_one_pass_scores_every_step(any_lm: Any) -> None:
    """Scores of an episode's steps equal those of its observations one by one, replies included."""
    policy = make_policy(any_lm)
    torch.nn.init.normal_(policy.value_net[-1].weight)
    tokens = torch.from_numpy(observations(4, length=10))
    columns = torch.tensor(
        [[3, 4, 7], [3, 5, 0], [4, 8, 0], [3, 0, 0]]
    )  # 5, 6 are a reply in row 0
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    actions = tokens.gather(1, (columns + 1).clamp(max=COLUMNS - 1))
    log_probs, values, entropies = policy.evaluate_episodes(
        tokens, columns, actions, mask, with_entropy=True
    )
    assert entropies is not None
    for row, t in mask.nonzero().tolist():
        seen = tokens[row].clone()
        seen[columns[row, t] + 1 :] = PAD
        value, log_prob, entropy = policy.evaluate_actions(seen[None], actions[row, t][None])
        assert entropy is not None
        for found, wanted in zip(
            (values, log_probs, entropies), (value[:, 0], log_prob, entropy), strict=True
        ):
            torch.testing.assert_close(found[row, t], wanted[0], rtol=1e-4, atol=1e-4)
    for padded in (log_probs, values, entropies):
        assert (padded[~mask] == 0).all()


def test_ratio_starts_at_one_despite_dropout() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5,
        embd_pdrop=0.5, attn_pdrop=0.5, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    policy = make_policy(GPT2LMHeadModel(config))
    obs = torch.from_numpy(observations())
    with torch.no_grad():
        actions, _, log_probs = policy(obs)
    policy.set_training_mode(True)
    _, again, _ = policy.evaluate_actions(obs, actions)
    torch.testing.assert_close(again, log_probs, rtol=1e-5, atol=1e-5)
    assert policy.training and not policy.actor.lm.training


def test_sampling_is_seeded_and_never_forbidden(gpt2: Any) -> None:
    policy = make_policy(gpt2(20), forbidden=list(range(3, 17)))
    obs = torch.from_numpy(np.repeat(observations(), 50, axis=0))
    with torch.no_grad():
        torch.manual_seed(1)
        first = policy(obs)[0]
        torch.manual_seed(1)
        assert torch.equal(first, policy(obs)[0])
    assert first.max() < 3 and len(first.unique()) == 3


def test_temperature_sharpens(gpt2: Any) -> None:
    obs = torch.from_numpy(observations())
    hot, cold = make_policy(gpt2(20)), make_policy(gpt2(20), temperature=0.5)
    logits = hot.get_distribution(obs).distribution.logits
    expected = (logits / 0.5).log_softmax(-1)
    torch.testing.assert_close(cold.get_distribution(obs).distribution.logits, expected)


def test_value_head(gpt2: Any) -> None:
    obs = torch.from_numpy(observations())
    actions = torch.zeros(5, dtype=torch.long)
    for hidden in ((), (8, 4)):
        policy = make_policy(gpt2(20), value_hidden=hidden)
        values, _, _ = policy.evaluate_actions(obs, actions)
        assert values.shape == (5, 1) and (values == 0).all()
    policy = make_policy(gpt2(20), detach_value=True)
    torch.nn.init.ones_(policy.value_net[-1].weight)
    policy.evaluate_actions(obs, actions)[0].sum().backward()
    assert all(p.grad is None for p in policy.actor.parameters())
    assert policy.value_net[-1].weight.grad is not None


def test_predict_single_and_batched(gpt2: Any) -> None:
    policy = make_policy(gpt2(20))
    obs = observations()
    actions, state = policy.predict(obs, deterministic=True)
    assert state is None and actions.shape == (5,)
    with torch.no_grad():
        logits = policy.get_distribution(torch.from_numpy(obs)).distribution.logits
    np.testing.assert_array_equal(actions, logits.argmax(1).numpy())
    single, _ = policy.predict(obs[2], deterministic=True)
    assert single.shape == () and single == actions[2]
    sampled, _ = policy.predict(obs)
    assert sampled.shape == (5,) and sampled.dtype.kind == "i"


def test_gradients_reach_language_model_through_the_distribution(gpt2: Any) -> None:
    """What TRPO and its like need: get_distribution differentiates when gradients are on."""
    policy = make_policy(gpt2(20))
    obs = torch.from_numpy(observations())
    actions, _, log_probs = policy(obs)
    log_probs.sum().backward()
    assert policy.actor.lm.transformer.wte.weight.grad is not None
    policy.get_distribution(obs).entropy().sum().backward()


@pytest.mark.parametrize("kind", ["native", "dummy", "single", "vector"])
def test_policy_kwargs_for_every_kind_of_env(gpt2: Any, kind: str) -> None:
    made = {
        "native": lambda: text_envs.make_sb3("text_envs/Toy-v0", num_envs=2),
        "dummy": lambda: DummyVecEnv([lambda: gym.make("text_envs/Toy-v0")] * 2),
        "single": lambda: gym.make("text_envs/Toy-v0"),
        "vector": lambda: gym.make_vec("text_envs/Toy-v0", num_envs=2),
    }[kind]()
    lm = gpt2(6)
    kwargs = policy_kwargs_for(made, lm, temperature=2.0)
    assert kwargs == {
        "model": lm, "pad_id": 3, "bos_id": 4, "eos_id": 2, "prompt_length": 1, "forbidden": [],
        "temperature": 2.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="has no tokenizer"):
        policy_kwargs_for(gym.make("CartPole-v1"), lm)


def test_stock_ppo_trains_and_evaluates(gpt2: Any) -> None:
    import stable_baselines3

    env = text_envs.make_sb3("text_envs/Toy-v0", num_envs=8, seed=0)
    agent = stable_baselines3.PPO(
        CausalLMPolicy, env, n_steps=32, batch_size=64, n_epochs=4, learning_rate=3e-3, gamma=1.0,
        policy_kwargs=policy_kwargs_for(env, gpt2(6)), seed=0, device="cpu",
    )  # fmt: skip
    before, _ = evaluate_policy(agent, env, n_eval_episodes=40, deterministic=False)
    agent.learn(4000)
    after, _ = evaluate_policy(agent, env, n_eval_episodes=40, deterministic=False)
    assert after > before + 0.3
    single = Monitor(gym.make("text_envs/Toy-v0"))
    greedy, spread = evaluate_policy(agent, single, n_eval_episodes=3)
    assert greedy >= 1.0 and spread == 0.0


def test_environment_passes_the_librarys_check() -> None:
    check_env(gym.make("text_envs/Toy-v0").unwrapped, warn=False)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"forbidden": [99]}, r"forbidden ids must be actions 0..16, got \[99\]"),
        ({"forbidden": list(range(17))}, "all 17 actions are forbidden"),
        ({"use_sde": True}, "use_sde is for continuous actions"),
        ({"model": 3}, "model must be 'reviews', a folder"),
        ({"model": "reviws"}, "Did you mean 'reviews'"),
    ],
)
def test_bad_arguments_are_named(gpt2: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make_policy(kwargs.pop("model", gpt2(20)), **kwargs)


def test_models_that_do_not_fit_are_named(gpt2: Any) -> None:
    with pytest.raises(ValueError, match="knows 10 tokens, the environment has 17"):
        make_policy(gpt2(10))
    with pytest.raises(ValueError, match="has 6 positions, observations have 10 columns"):
        make_policy(gpt2(20, positions=6))
    lm = gpt2(20)
    lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="flash_attention_2"):
        make_policy(lm)
    with pytest.raises(ValueError, match="no separate backbone"):
        make_policy(gpt2(20).transformer)


def test_diverged_weights_are_reported(gpt2: Any) -> None:
    policy = make_policy(gpt2(20))
    with torch.no_grad():
        policy.actor.lm.transformer.wte.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        policy.act(observations(), np.arange(5))
