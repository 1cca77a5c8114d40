"""Whole episodes as tensors.

Played by a policy (`episodes`), in groups with one start (`groups`), for goals (`goals`), together
with a guide (`guided`); with whitened rewards (`whitening`), or for a score (`evaluation`).
Imports `policies` and what stands below it.
"""

from agents.rollouts.episodes import Collected, collect_episodes, score
from agents.rollouts.evaluation import evaluate_texts, mean_and_interval
from agents.rollouts.rollout import Rollout
from agents.rollouts.whitening import WhitenRewards

__all__ = [
    "Collected",
    "Rollout",
    "WhitenRewards",
    "collect_episodes",
    "evaluate_texts",
    "mean_and_interval",
    "score",
]
