"""A game of questions about a picture.

The game (`task`), invented pictures (`scenes`), what is said about them (`language`), and recorded
dialogues (`records`).
"""

from text_envs.tasks.visual_dialogue.task import VisualDialogue

__all__ = ["VisualDialogue"]
