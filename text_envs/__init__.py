"""Text generation as token-level Gymnasium environments.

Importing this package registers every id of the suite and needs numpy and Gymnasium only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from text_envs.core import TokenEnv
from text_envs.errors import DatasetError, GuideError, RewardModelError
from text_envs.registration import list_ids, register, register_goal
from text_envs.tasks.base import Task
from text_envs.types import Episode, EpisodeBatch, Example, Replies, Role, Turns
from text_envs.vector import TokenVectorEnv

if TYPE_CHECKING:
    from text_envs.sb3 import make_sb3

__all__ = [
    "DatasetError",
    "Episode",
    "EpisodeBatch",
    "Example",
    "GuideError",
    "Replies",
    "RewardModelError",
    "Role",
    "Task",
    "TokenEnv",
    "TokenVectorEnv",
    "Turns",
    "list_ids",
    "make_sb3",
    "register",
    "register_goal",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Stable-Baselines3 imports torch, which most users of the environments do not need.
    if name == "make_sb3":
        from text_envs.sb3 import make_sb3

        return make_sb3
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
