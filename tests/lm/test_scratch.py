"""Small models made for a task."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import Echo

import text_envs
from agents import PPO, load_lm, make_lm
from agents.common.envs import policy_kwargs_for
from text_envs.lm import scratch

TOY = "text_envs/Toy-v0"


@pytest.mark.parametrize("kind", ["task", "id", "single", "vector", "sb3"])
def test_has_the_words_and_columns_of_the_task(kind: str) -> None:
    source: Any = {
        "task": lambda: text_envs.make_sb3(TOY).get_attr("task")[0],
        "id": lambda: TOY,
        "single": lambda: gym.make(TOY),
        "vector": lambda: gym.make_vec(TOY, num_envs=2),
        "sb3": lambda: text_envs.make_sb3(TOY, num_envs=2),
    }[kind]()
    lm = make_lm(source)
    assert (lm.config.vocab_size, lm.config.n_positions) == (6, 4)
    assert not lm.training


def test_a_tokenizer_needs_columns() -> None:
    tokenizer = Echo().tokenizer
    with pytest.raises(ValueError, match=r"pass columns=\.\.\."):
        make_lm(tokenizer)
    lm = make_lm(tokenizer, 7, layers=1, width=8, heads=4)
    config = lm.config
    assert (config.vocab_size, config.n_positions, config.n_layer, config.n_embd) == (8, 7, 1, 8)
    assert config.n_head == 4
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_id, tokenizer.eos_id)


def test_the_seed_fixes_the_weights_and_nothing_else() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (make_lm(TOY, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_it_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    lm = make_lm(TOY, width=16)
    lm.save_pretrained(tmp_path)
    loaded, tokenizer = load_lm(tmp_path)
    assert tokenizer is None  # the words are the environment's
    ids = torch.tensor([[4, 0, 1]])
    torch.testing.assert_close(loaded(ids).logits, lm(ids).logits)


def test_agents_ask_for_it_by_name() -> None:
    env = text_envs.make_sb3(TOY, num_envs=2)
    assert policy_kwargs_for(env, "scratch")["model"].config.n_embd == 64
    assert policy_kwargs_for(env, {"width": 8, "layers": 1})["model"].config.n_layer == 1
    kwargs = {"model": {"width": 8, "layers": 1}}
    agent = PPO("CausalLMPolicy", env, n_episodes=8, policy_kwargs=kwargs, device="cpu")
    agent.learn(20)
    actions, _ = agent.predict(env.reset())  # type: ignore[arg-type]
    assert np.shape(actions) == (2,)


def test_example() -> None:
    assert doctest.testmod(scratch).failed == 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"columns": 0}, "columns must be at least 1"),
        ({"width": 10, "heads": 4}, "width must be a multiple of heads=4, got 10"),
    ],
)
def test_sizes(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_lm(TOY, **kwargs)


def test_what_is_no_source() -> None:
    with pytest.raises(TypeError, match="no text environment"):
        make_lm(gym.make("CartPole-v1"))


def test_rotary_positions_are_relative(tmp_path: Path) -> None:
    """A Llama: it acts, is saved and loaded, and scores do not change with a shift."""
    from agents import load_lm
    from text_envs.lm import ActionLM

    lm = make_lm("text_envs/Toy-v0", columns=12, width=16, rotary=True)
    assert type(lm).__name__ == "LlamaForCausalLM" and lm.config.max_position_embeddings == 12
    ids = torch.tensor([[4, 0, 1, 0]])
    positions = torch.arange(4)[None]
    with torch.no_grad():
        here = lm(input_ids=ids, position_ids=positions).logits
        there = lm(input_ids=ids, position_ids=positions + 7).logits
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)
    ActionLM(lm, num_actions=3, pad_id=3)
    lm.save_pretrained(tmp_path)
    again, _ = load_lm(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, here, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="rotary needs an even width / heads, got 6 / 2"):
        make_lm("text_envs/Toy-v0", width=6, rotary=True)
