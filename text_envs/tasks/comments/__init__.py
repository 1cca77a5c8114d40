"""Comments: the task (`task`), the grammar it draws from (`grammar`), recorded ones (`data`)."""

from text_envs.tasks.comments.task import Comments

__all__ = ["Comments"]
