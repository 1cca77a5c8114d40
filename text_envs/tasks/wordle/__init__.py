"""Wordle: the game (`task`), its words and marks (`words`), scripted players (`players`)."""

from text_envs.tasks.wordle.task import Wordle

__all__ = ["Wordle"]
