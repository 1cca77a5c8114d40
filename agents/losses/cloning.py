"""The losses of behaviour cloning as pure functions; notation as in `agents.losses.on_policy`."""

from __future__ import annotations

from text_envs.lm.smoothing import (
    actor_smoothed_log_probs,
    linear_smoothed_log_probs,
    smoothed_log_probs,
)

__all__ = ["actor_smoothed_log_probs", "linear_smoothed_log_probs", "smoothed_log_probs"]
