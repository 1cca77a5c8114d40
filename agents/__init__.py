"""Agents for text environments, in the shape of Stable-Baselines3."""

from __future__ import annotations

from agents.checkpoints import SaveEvery
from agents.envs import policy_kwargs_for
from agents.evaluation import evaluate_texts, mean_and_interval
from agents.policies import CausalLMPolicy
from agents.ppo import PPO
from text_envs.lm.loading import freeze, load_lm

__all__ = [
    "PPO",
    "CausalLMPolicy",
    "SaveEvery",
    "evaluate_texts",
    "freeze",
    "load_lm",
    "mean_and_interval",
    "policy_kwargs_for",
]
