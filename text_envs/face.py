"""What the single and the vector environment show of the engine behind them."""

from __future__ import annotations

from typing import Any

from text_envs.engine import TokenEngine
from text_envs.rewards import RewardModel, resolve
from text_envs.tasks.base import Task
from text_envs.tokenizers import Tokenizer

__all__ = ["Face"]


class Face:
    """Attributes that every environment of the suite has.

    Attributes:
        engine: the rows.
    """

    engine: TokenEngine

    @property
    def task(self) -> Task:
        """The task: data, replies, limits."""
        return self.engine.task

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns ids into text."""
        return self.engine.tokenizer

    @property
    def reward_model(self) -> RewardModel | None:
        """What scores finished episodes; assign another one, or its name, at any time."""
        return self.engine.reward_model

    @reward_model.setter
    def reward_model(self, spec: Any) -> None:
        self.engine.reward_model = resolve(spec)
