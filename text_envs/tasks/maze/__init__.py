"""Maze: the walk (`task`), and the grids it walks on (`grid`)."""

from text_envs.tasks.maze.task import Maze

__all__ = ["Maze"]
