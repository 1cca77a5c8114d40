"""Reward models: batched callables `(EpisodeBatch) -> (B,) or (B, K)`, resolved from names.

What a name needs beyond numpy is imported when it is asked for. Decorators wrap any of them;
`Calibrated` pays for nearness to demonstrations; `metrics` measures many texts at once, which no
single text could be paid for. Imports `tokens`, `episodes`, `core` and `lm`, but no task.
"""

from text_envs.core.reward import RewardModel, Scored, score, score_with_details
from text_envs.rewards.builtin import Constant, Length, WeightedSum
from text_envs.rewards.cache import Cache
from text_envs.rewards.calibrated import Calibrated, whiten_components
from text_envs.rewards.decorators import Clip, Ledger, Scale
from text_envs.rewards.resolve import NAMES, resolve

__all__ = [
    "NAMES",
    "Cache",
    "Calibrated",
    "Clip",
    "Constant",
    "Ledger",
    "Length",
    "RewardModel",
    "Scale",
    "Scored",
    "WeightedSum",
    "resolve",
    "score",
    "score_with_details",
    "whiten_components",
]
