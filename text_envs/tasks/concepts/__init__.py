"""The task (`task`), the grammar of its scenes (`grammar`), recorded ones (`data`)."""

from text_envs.tasks.concepts.task import ConceptsToSentence

__all__ = ["ConceptsToSentence"]
