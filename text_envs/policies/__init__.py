"""Policies of every kind as functions of observations.

Functions, language models, agents of Stable-Baselines3, and the scripted players of tasks. Imports
`tokens`, `episodes`, `core` and `lm`, the last (and so torch) only where a network is at hand.
"""

from text_envs.policies.functions import LogProbs, PolicyFunction, as_log_probs, uniform
from text_envs.policies.scripted import Script

__all__ = ["LogProbs", "PolicyFunction", "Script", "as_log_probs", "uniform"]
