"""Reasoning questions in twelve ids: eight families, each a generator, a card and a checker."""

from text_envs.tasks.reasoning.base import ReasoningTask
from text_envs.tasks.reasoning.checker import ExactMatch
from text_envs.tasks.reasoning.items import Family, Item

__all__ = ["ExactMatch", "Family", "Item", "ReasoningTask"]
