"""Text generation as token-level Gymnasium environments.

Importing this package registers every id of the suite and needs numpy and Gymnasium only. Its
folders, from the ground up, each of which imports only those before it:

```
tokens/    ids and text: tokenizers, vocabularies, how tokens are spelled and encoded
episodes/  examples, turns, finished and recorded episodes, their file, the exceptions
core/      the MDP on arrays and its interfaces; knows no task, no reward, no face
render/    terminal, images, pages
lm/        language models over actions (torch)
rewards/   reward models, resolved from names
tasks/     one family a file or folder; the class docstring is the environment's card
policies/  policies of every kind as functions of observations; scripted players
guides/    writers that begin or finish texts; roll-in and shaping
envs/      faces: single, batch, goals, Stable-Baselines3; the table of ids
datasets/  collecting, recipes, rescoring, Minari; demonstrations and reference scores
exact/     optimal values, posteriors, divergences
testing/   the contract as callable checks
cli/       python -m text_envs
assets/    bundled data, and the scripts that made them
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from text_envs import datasets  # names what plays `Task.demonstrations` and reads Minari's sets
from text_envs.core.task import Task
from text_envs.core.version import __version__
from text_envs.envs.registration import list_ids, register, register_goal
from text_envs.envs.single import TokenEnv
from text_envs.envs.vector import TokenVectorEnv
from text_envs.episodes.errors import DatasetError, GuideError, RewardModelError
from text_envs.episodes.types import Episode, EpisodeBatch, Example, Replies, Role, Turns

if TYPE_CHECKING:
    from text_envs.envs.sb3 import make_sb3

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
    "__version__",
    "datasets",
    "list_ids",
    "make_sb3",
    "register",
    "register_goal",
]


def __getattr__(name: str) -> Any:
    # Stable-Baselines3 imports torch, which most users of the environments do not need.
    if name == "make_sb3":
        from text_envs.envs.sb3 import make_sb3

        return make_sb3
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
