"""Start states that a guide has reached, under the name that users write: `text_envs.guides`."""

from text_envs.guides.roll_in import GuidedStarts

__all__ = ["GuidedStarts"]
