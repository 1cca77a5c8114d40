"""Tasks: one family a file, or a folder where it has several.

The class docstring of a task is the card of its environment. What several families need (splits,
data files, drawing contexts) is in `shared`. Imports `tokens`, `episodes`, `core`, `lm` and
`rewards`; no face, no policy.
"""

from text_envs.core.task import Task

__all__ = ["Task"]
