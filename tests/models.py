"""Small language models and a task that the tests of models and agents use."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from text_envs import EpisodeBatch, Example, Task
from text_envs.lm.scratch import make_iid_lm
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


def iid_lm(p: tuple[float, float, float]) -> GPT2LMHeadModel:
    """Return a GPT-2 for Toy-v0 whose tokens are at first independent draws from p."""
    return make_iid_lm("text_envs/Toy-v0", p)
