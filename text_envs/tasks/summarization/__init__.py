"""The task (`task`), the grammar of its posts (`grammar`), recorded ones (`data`)."""

from text_envs.tasks.summarization.task import Summarization

__all__ = ["Summarization"]
