"""Small language models and tasks for the tests of the agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import text_envs
from text_envs import EpisodeBatch, Example, Task
from text_envs.tokenizers import WordTokenizer

WORDS = [f"w{i}" for i in range(12)]


class Share(Task):
    """The reward is the share of the word `w3` among `max_tokens`; prompts differ in length."""

    reward = staticmethod(lambda episodes: share_of_w3(episodes))

    def __init__(self, max_tokens: int = 6) -> None:
        prompts = [" ".join(WORDS[: 1 + i]) for i in range(4)]
        super().__init__(
            [Example(prompt) for prompt in prompts],
            tokenizer=WordTokenizer(WORDS),
            prompt_length=6,
            max_tokens=max_tokens,
        )


def share_of_w3(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
    return np.asarray((episodes.response == 3).mean(axis=1))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Small tensors are quickest on one thread, and sums are then always in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def share() -> Share:
    return Share()


def tiny_gpt2(
    vocab_size: int, positions: int = 32, width: int = 16, layers: int = 1, seed: int = 0
) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=positions, n_embd=width, n_layer=layers, n_head=2,
        initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def tiny_llama(vocab_size: int, positions: int = 32, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=positions,
        initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def gpt2() -> Callable[..., GPT2LMHeadModel]:
    return tiny_gpt2


@pytest.fixture(params=["gpt2-sdpa", "gpt2-eager", "llama-sdpa", "llama-eager"])
def any_lm(request: pytest.FixtureRequest) -> Any:
    """A language model with a vocabulary of 20 and 32 positions."""
    family, attention = request.param.split("-")
    lm = tiny_gpt2(20, layers=2) if family == "gpt2" else tiny_llama(20)
    lm.set_attn_implementation(attention)
    return lm


@pytest.fixture
def make_agent(share: Share) -> Callable[..., Any]:
    """Return a function that makes a PPO agent on `Share` (or another environment)."""
    from agents import PPO

    def make(env: Any = None, model: Any = None, **kwargs: Any) -> Any:
        env = text_envs.make_sb3(share, num_envs=8) if env is None else env
        vocab_size = env.get_attr("tokenizer")[0].vocab_size
        model = tiny_gpt2(vocab_size) if model is None else model
        policy_kwargs = {"model": model, **kwargs.pop("policy_kwargs", {})}
        arguments = {"n_episodes": 16, "batch_size": 8, "seed": 0, "device": "cpu"} | kwargs
        return PPO("CausalLMPolicy", env, policy_kwargs=policy_kwargs, **arguments)

    return make
