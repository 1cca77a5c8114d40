"""Agents of every class that learn adapters or in another precision, and what they hold."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from test_copies import ALGORITHMS, TOY, make
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import text_envs

__all__ = ["ALGORITHMS", "TOY", "VALUES", "held", "make", "neox", "peft_model", "reload"]

VALUES = ("CQL", "ILQL", "MCValues")
GUIDED = ("AggreVaTeD", "D2LOLS", "LOLS", "PPOPlusPlus")
OFFLINE = ("BC", "DecisionTransformer", *VALUES)


def reload(agent: Any, path: Any, recorded: Any, **kwargs: Any) -> Any:
    """Return a saved agent, ready to go on."""
    name = type(agent).__name__
    if name in OFFLINE:
        kwargs |= {"dataset": recorded}
    if name in GUIDED:
        kwargs |= {"guide": "script:random"}
    env = text_envs.make_sb3(TOY, num_envs=agent.n_envs)
    return type(agent).load(path, env=env, device="cpu", **kwargs)


def held(*modules: Any) -> int:
    """Return how many numbers lie in the distinct storages of the parameters of modules."""
    found = {}
    for module in modules:
        for parameter in module.parameters():
            found[parameter.untyped_storage().data_ptr()] = parameter.numel()
    return sum(found.values())


def neox(vocab_size: int, positions: int = 32) -> Any:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=positions, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def peft_model(lm: Any, *, trained: bool, **kwargs: Any) -> Any:
    """Return a model of peft as its users make one; if trained, its adapter changes the scores."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.get_peft_model(lm, peft.LoraConfig(**{"r": 2} | kwargs))
    if trained:
        torch.manual_seed(7)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
    return model
