"""The table of environment ids; adding one is one line here."""

from __future__ import annotations

import difflib
import functools
from typing import Any

import gymnasium as gym

from text_envs.core.task import Task

__all__ = ["list_ids", "register", "register_goal"]

_NAMESPACE = "text_envs"


def register(name: str, task: str | type[Task], **kwargs: Any) -> None:
    """Register `text_envs/<name>` for `gymnasium.make` and `gymnasium.make_vec`.

    Args:
        name: name and version, such as "Reviews-v0".
        task: `"module:Class"` of the task; or the class itself, for ids of one process.
        **kwargs: default arguments; plain JSON values, so that the spec can be written to a file.
    """
    gym.register(
        id=name if "/" in name else f"{_NAMESPACE}/{name}",
        entry_point="text_envs.envs.single:TokenEnv",
        vector_entry_point="text_envs.envs.vector:TokenVectorEnv",
        kwargs={"task": task, **kwargs},
    )


def register_goal(name: str, task: str | type[Task], **kwargs: Any) -> None:
    """Register a goal-conditioned face of a task, see `text_envs.envs.goal`.

    Args:
        name: name and version, such as "WordSortingGoal-v0".
        task: as in `register`; its finished text must be judged by a reward model.
        **kwargs: default arguments, plain JSON values.
    """
    gym.register(
        id=name if "/" in name else f"{_NAMESPACE}/{name}",
        entry_point="text_envs.envs.goal:GoalTokenEnv",
        vector_entry_point="text_envs.envs.goal:GoalTokenVectorEnv",
        kwargs={"task": task, **kwargs},
    )


def list_ids() -> list[str]:
    """Return the ids of this suite, in alphabetical order."""
    return sorted(id for id in gym.registry if id.startswith(f"{_NAMESPACE}/"))


_REASONING: tuple[tuple[str, str, dict[str, int]], ...] = (
    ("LogicalDeductionThree", "deduction:LogicalDeduction", {"objects": 3}),
    ("LogicalDeductionFive", "deduction:LogicalDeduction", {"objects": 5}),
    ("LogicalDeductionSeven", "deduction:LogicalDeduction", {"objects": 7}),
    ("TrackingShuffledObjectsThree", "tracking:TrackingShuffledObjects", {"people": 3}),
    ("TrackingShuffledObjectsFive", "tracking:TrackingShuffledObjects", {"people": 5}),
    ("TrackingShuffledObjectsSeven", "tracking:TrackingShuffledObjects", {"people": 7}),
    ("DateUnderstanding", "dates:DateUnderstanding", {}),
    ("ObjectCounting", "counting:ObjectCounting", {}),
    ("GeometricShapes", "shapes:GeometricShapes", {}),
    ("PenguinsInATable", "penguins:PenguinsInATable", {}),
    ("ReasoningAboutColoredObjects", "colored_objects:ReasoningAboutColoredObjects", {}),
    ("WordSorting", "sorting:WordSorting", {}),
)
for _name, _task, _kwargs in _REASONING:
    register(f"{_name}-v0", f"text_envs.tasks.reasoning.{_task}", **_kwargs)
    register_goal(f"{_name}Goal-v0", f"text_envs.tasks.reasoning.{_task}", **_kwargs)

register("Comments-v0", "text_envs.tasks.comments:Comments")
register("ConceptsToSentence-v0", "text_envs.tasks.concepts:ConceptsToSentence")
register("Generation-v0", "text_envs.tasks.generation:Generation")
register("IncreasingNumbers-v0", "text_envs.tasks.numbers:IncreasingNumbers")
register("LikelihoodContinuation-v0", "text_envs.tasks.likelihood:LikelihoodContinuation")
register("Maze-v0", "text_envs.tasks.maze:Maze")
register("Reviews-v0", "text_envs.tasks.reviews:Reviews")
register("Summarization-v0", "text_envs.tasks.summarization:Summarization")
register("TargetWords-v0", "text_envs.tasks.target_words:TargetWords")
register("Toy-v0", "text_envs.tasks.toy:Toy")
register("VisualDialogue-v0", "text_envs.tasks.visual_dialogue:VisualDialogue")
register("Wordle-v0", "text_envs.tasks.wordle:Wordle")


def _hint_at_the_namespace() -> None:
    """Let Gymnasium say `text_envs/Wordle-v0` to who asks for "Wordle-v0".

    It looks for near names within a namespace only, and says of a name of ours that it does not
    exist. Only that message changes; where a release of Gymnasium has no such function, nothing.
    """
    module: Any = gym.envs.registration
    check = getattr(module, "_check_name_exists", None)
    if check is None or hasattr(check, "hints"):
        return

    @functools.wraps(check)
    def check_with_hint(namespace: str | None, name: str, *args: Any, **kwargs: Any) -> None:
        try:
            check(namespace, name, *args, **kwargs)
        except gym.error.NameNotFound as error:
            names = {id.removeprefix(f"{_NAMESPACE}/").rpartition("-v")[0] for id in list_ids()}
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
            if namespace is not None or not near:
                raise
            raise gym.error.NameNotFound(
                f"{error} Did you mean `{_NAMESPACE}/{near[0]}`? Ids of text_envs have that prefix."
            ) from None

    check_with_hint.hints = _NAMESPACE  # type: ignore[attr-defined]
    module._check_name_exists = check_with_hint


_hint_at_the_namespace()
