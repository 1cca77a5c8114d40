"""What the tests of the agents share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import Share, tiny_gpt2

import text_envs


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Small tensors are quickest on one thread, and sums are then always in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
