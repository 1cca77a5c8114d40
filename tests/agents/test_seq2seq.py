"""Encoder-decoder policies: the same numbers as transformers, cached decoding, PPO, saving."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hir_helpers import tiny_t5
from models import Share, tiny_gpt2
from stable_baselines3.common.evaluation import evaluate_policy
from transformers import BartConfig, BartForConditionalGeneration

import text_envs
from agents import PPO, CausalLMPolicy, Seq2SeqPolicy, policy_kwargs_for
from agents.policies.seq2seq import Seq2SeqLM
from agents.rollouts.episodes import collect_episodes, score
from text_envs.lm.loading import freeze, load_lm


def tiny_bart(vocab_size: int, positions: int = 16) -> Any:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=vocab_size, d_model=16, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_position_embeddings=positions, init_std=0.3,
        bos_token_id=14, eos_token_id=12, pad_token_id=13, decoder_start_token_id=12,
        forced_eos_token_id=None,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()


MODELS = {
    "t5": tiny_t5,
    "t5-untied": lambda size: tiny_t5(size, tie_word_embeddings=False),
    "t5-unscaled": lambda size: tiny_t5(size, scale_decoder_outputs=False),
    "bart": tiny_bart,
}


def make(model: Any = None, num_envs: int = 4, **kwargs: Any) -> Any:
    env = text_envs.make_sb3(Share(), num_envs=num_envs, seed=0)
    model = tiny_t5(16) if model is None else model
    policy_kwargs = policy_kwargs_for(env, model, **kwargs)
    space, actions = env.observation_space, env.action_space
    return Seq2SeqPolicy(space, actions, lambda _: 1e-3, **policy_kwargs), env


def plain_log_probs(policy: Any, tokens: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of one text, from transformers' own forward pass."""
    lm, pad = policy.actor.lm, policy.actor.pad_id
    prompt = tokens[:6][tokens[:6] != pad].tolist()
    fed = [lm.config.decoder_start_token_id, *actions.tolist()[:-1]]
    logits = lm(
        input_ids=torch.tensor([[*prompt, lm.config.eos_token_id]]),
        decoder_input_ids=torch.tensor([fed]),
    ).logits[0, :, : policy.actor.num_actions]
    return logits.log_softmax(dim=1).gather(1, actions[:, None]).squeeze(1)


@pytest.mark.parametrize("name", MODELS)
def test_sampled_scored_and_plain_log_probs_agree(name: str) -> None:
    """Cached sampling, one pass with gradients, and `lm(...)` on each text without padding."""
    policy, env = make(MODELS[name](16))
    torch.manual_seed(1)
    rollout = collect_episodes(policy, env, 12, env.reset()).rollout
    assert rollout.lengths.unique().numel() > 1  # ends that leave rows behind
    with torch.no_grad():
        scored, _, _ = policy.evaluate_episodes(
            rollout.tokens, rollout.columns, rollout.actions, rollout.mask
        )
        torch.testing.assert_close(scored, rollout.log_probs, rtol=1e-4, atol=1e-4)
        for row in range(12):
            mask = rollout.mask[row]
            wanted = plain_log_probs(policy, rollout.tokens[row], rollout.actions[row][mask])
            torch.testing.assert_close(scored[row][mask], wanted, rtol=1e-4, atol=1e-4)
    frozen = freeze(policy.actor)
    torch.testing.assert_close(score(frozen, rollout, 5), scored, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_cached_states_are_those_of_a_whole_pass(name: str) -> None:
    """Rows that end, begin anew, jump, go back, come and go."""
    policy, env = make(MODELS[name](16), num_envs=5)
    fresh = copy.deepcopy(policy.actor)
    rng = np.random.default_rng(0)
    obs = env.reset()
    for step in range(25):
        rows = np.arange(5) if step % 7 else rng.permutation(5)[:3]
        shown = obs[rows].copy()
        if step % 5 == 4:
            shown[0, 7:] = policy.actor.pad_id  # cut back to one token
            shown[0, 6] = 3
        hidden, last = policy.actor.decode(shown, rows)
        fresh.invalidate()
        wanted, same = fresh.decode(shown, np.arange(len(shown)))
        assert np.array_equal(last, same)
        torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-4)
        actions = rng.integers(12, size=5)
        actions[rng.random(5) < 0.15] = 12
        obs = env.step(actions)[0]


def test_a_step_feeds_one_token_a_row_and_reads_no_prompt_again() -> None:
    policy, env = make(forbidden=[12])
    fed: list[tuple[str, tuple[int, ...]]] = []
    for name in ("encoder", "decoder"):
        getattr(policy.actor.lm, name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: fed.append((name, kwargs["input_ids"].shape)),
            with_kwargs=True,
        )
    obs = env.reset()
    obs[1] = obs[0]  # equal prompts are read once
    different = len(np.unique(obs[:, :6], axis=0))
    for _ in range(5):
        actions, _, _, columns = policy.act(obs, np.arange(4))
        obs[np.arange(4), columns + 1] = actions
    assert fed[0][0] == "encoder" and fed[0][1][0] == different < 4
    assert fed[1:] == [("decoder", (4, 1))] * 5


def test_changed_weights_empty_the_cache() -> None:
    policy, env = make()
    obs = env.reset()
    before = policy.actor.decode(obs)[0].clone()
    with torch.no_grad():
        policy.actor.lm.shared.weight.mul_(1.5)
    after = policy.actor.decode(obs)[0]
    assert not torch.allclose(before, after, atol=1e-3)


def test_ppo_learns_the_trivial_on_an_encoder_decoder(tmp_path: Path) -> None:
    env = text_envs.make_sb3(Share(), num_envs=16)
    agent = PPO(
        "Seq2SeqPolicy", env, n_episodes=32, batch_size=16, learning_rate=1e-2, kl_coef=0.001,
        seed=0, device="cpu", policy_kwargs={"model": tiny_t5(16, factor=1.0, layers=1)},
    )  # fmt: skip
    agent.learn(4_000)
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=16)
    assert mean > 0.9
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent", env=env, device="cpu")
    obs = env.reset()
    assert np.array_equal(*(a.predict(obs, deterministic=True)[0] for a in (agent, again)))
    again.learn(100, reset_num_timesteps=False)
    lm, _ = load_lm(tmp_path / "agent", seq2seq=True)
    assert lm.config.is_encoder_decoder


def test_resumes_exactly(tmp_path: Path) -> None:
    def agent() -> PPO:
        env = text_envs.make_sb3(Share(), num_envs=4)
        return PPO(
            "Seq2SeqPolicy", env, n_episodes=8, batch_size=4, seed=0, device="cpu",
            policy_kwargs={"model": tiny_t5(16)},
        )  # fmt: skip

    whole = agent().learn(60)
    whole.save(tmp_path / "x.zip")
    whole.learn(60, reset_num_timesteps=False)
    env = text_envs.make_sb3(Share(), num_envs=4)
    again = PPO.load(tmp_path / "x.zip", env=env, device="cpu")
    again.learn(60, reset_num_timesteps=False)
    for one, other in zip(whole.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_bad_models_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GPT2LMHeadModel is no encoder-decoder model"):
        make(tiny_gpt2(16))
    with pytest.raises(ValueError, match="accepted: causal language models"):
        env = text_envs.make_sb3(Share(), num_envs=1)
        kwargs = policy_kwargs_for(env, tiny_t5(16))
        CausalLMPolicy(env.observation_space, env.action_space, lambda _: 0.0, **kwargs)
    with pytest.raises(ValueError, match="needs prompt_length"):
        Seq2SeqLM(tiny_t5(16), num_actions=13, pad_id=13)
    with pytest.raises(ValueError, match="has 6 positions, prompts and texts need up to 7"):
        make(tiny_bart(16, positions=6))
    with pytest.raises(ValueError, match="no encoder-decoder language model 'reviews'"):
        load_lm("reviews", seq2seq=True)
    lm = tiny_t5(16)
    lm.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="no decoder_start_token_id"):
        make(lm)
