"""What the parts with a language model share: agents of fixed sizes on `Reviews-v0`."""

from __future__ import annotations

from typing import Any, cast

import torch
from stable_baselines3.common.logger import configure

import text_envs
from agents import PPO
from text_envs.envs.vec_env import TokenVecEnv

__all__ = ["agent", "on_threads"]


def agent(
    num_envs: int, max_tokens: int, seed: int, *, may_stop: bool = True, **kwargs: Any
) -> tuple[PPO, TokenVecEnv]:
    """Return an agent on the bundled model and its environment.

    Args:
        num_envs: rows, and episodes a roll-out.
        max_tokens: longest continuation.
        seed: of the agent and of the environment.
        may_stop: False forbids the end of text, so that every episode has `max_tokens` steps.
        **kwargs: arguments of `PPO`.
    """
    env = text_envs.make_sb3("text_envs/Reviews-v0", num_envs, max_tokens=max_tokens)
    eos = env.get_attr("tokenizer")[0].eos_id
    ppo = PPO(
        "CausalLMPolicy",
        env,
        policy_kwargs={"model": "reviews"} if may_stop else {"forbidden": [eos]},
        n_episodes=num_envs,
        seed=seed,
        device="cpu",
        **kwargs,
    )
    ppo.set_logger(configure(None, []))
    return ppo, cast(TokenVecEnv, env)


def on_threads(count: int) -> str:
    """Set the number of threads torch computes with; return words for it."""
    torch.set_num_threads(count)
    return f"{count} thread{'s' if count > 1 else ''}"
