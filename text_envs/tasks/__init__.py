"""Tasks, one family a file; the class docstring of a task is the card of its environment."""

from text_envs.tasks.base import Task

__all__ = ["Task"]
