"""Reward models: batched callables `(EpisodeBatch) -> (B,) or (B, K)`, resolved from names."""

from text_envs.rewards.base import RewardModel, Scored, score, score_with_details
from text_envs.rewards.builtin import Constant, Length, WeightedSum
from text_envs.rewards.resolve import NAMES, resolve

__all__ = [
    "NAMES",
    "Constant",
    "Length",
    "RewardModel",
    "Scored",
    "WeightedSum",
    "resolve",
    "score",
    "score_with_details",
]
