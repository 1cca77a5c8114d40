"""What a task is: prompts, the tokenizer, the limits, the default reward and, with turns, replies.

A task holds no state of an episode. Whatever must be remembered between two turns lives in arrays
that the environment owns (`memory`), so one task object serves any number of rows, and an
environment can save, restore and restart every row without asking the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.types import Example, Replies, Turns
from text_envs.tokens.encoding import encode_prompts
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.stopping import StopStrings, stop_strings

__all__ = ["Task", "set_demonstrator"]


class Demonstrator(Protocol):
    """Plays a task's script on an engine and records what happened."""

    def __call__(
        self, task: Task, n: int, *, quality: str, seed: int, reward: Any
    ) -> EpisodeDataset:
        """Return `n` episodes, see `Task.demonstrations`."""
        ...


_demonstrator: Demonstrator | None = None


def set_demonstrator(function: Demonstrator) -> None:
    """Name what plays `Task.demonstrations`.

    It needs an engine, reward models by name and a recorder, all of which stand above a task:
    `text_envs.datasets.demonstrations` introduces itself here when it is imported, as `text_envs`
    itself does.
    """
    global _demonstrator
    _demonstrator = function


class Task:
    """A list of examples to continue; subclass it for replies, memory or generated examples.

    Adding a task is one file: subclass, pass the examples to `super().__init__`, register the id.

    Attributes:
        tokenizer: turns prompts into ids and ids into text.
        prompt_length: columns reserved for the prompt.
        max_tokens: columns for everything generated, replies included.
        max_turn_tokens: tokens after which a turn of the agent ends by itself, or None.
        multi_turn: True where `reply` answers a finished turn instead of ending the episode.
        qualities: what `demonstrations` can play; a task with a script adds "expert" and "mixed".
        stops: finds the stop strings that end a turn; None where only tokens do.
        reward: what `text_envs.rewards.resolve` turns into the default reward model, or None
            where the replies carry the whole reward.
    """

    multi_turn: ClassVar[bool] = False
    qualities: tuple[str, ...] = ("random",)
    max_turn_tokens: int | None = None
    stops: StopStrings | None = None
    reward: Any = None

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        tokenizer: Tokenizer,
        prompt_length: int,
        max_tokens: int,
        truncate_prompts: bool = False,
        stop: str | Sequence[str] = (),
    ) -> None:
        """Tokenise every prompt once.

        Args:
            examples: what to continue.
            tokenizer: used for prompts and replies.
            prompt_length: columns reserved for the prompt, at least 1.
            max_tokens: columns for everything generated, at least 1.
            truncate_prompts: keep the last `prompt_length` tokens of a longer prompt instead of
                refusing it.
            stop: texts that end a turn as the end token does, see `text_envs.tokens.stopping`.

        Raises:
            ValueError: no examples, a limit below 1, a prompt that does not fit, or a stop string
                that no turn could end with.
            TypeError: a stop string is no text.
        """
        for name, value in (("prompt_length", prompt_length), ("max_tokens", max_tokens)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if len(examples) == 0:
            raise ValueError(f"{type(self).__name__} needs at least one example, got none")
        self.tokenizer = tokenizer
        self.prompt_length = int(prompt_length)
        self.max_tokens = int(max_tokens)
        self.stops = stop_strings(tokenizer, stop, self.max_turn_tokens or self.max_tokens)
        self.examples = examples
        self._prompts = encode_prompts(
            [example.prompt for example in examples],
            tokenizer,
            self.prompt_length,
            truncate=truncate_prompts,
        )

    def __len__(self) -> int:
        """Return the number of examples; the start of an episode is drawn uniformly from them."""
        return len(self.examples)

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        """Return self: reading a Gymnasium spec copies its arguments, and a task is stateless."""
        return self

    def example(self, index: int) -> Example:
        """Return example number `index`, `0 <= index < len(self)`."""
        return self.examples[index]

    def prompts(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the left-padded prompts `(B, prompt_length)` of the examples `indices` `(B,)`."""
        return self._prompts[indices]

    def memory(self, num_envs: int) -> dict[str, NDArray[Any]]:
        """Return the arrays, first axis `num_envs`, in which the task remembers an episode."""
        return {}

    def begin(
        self,
        memory: Mapping[str, NDArray[Any]],
        rows: NDArray[np.int64],
        indices: NDArray[np.int64],
        rngs: Sequence[np.random.Generator],
    ) -> None:
        """Prepare `memory[name][rows]` for episodes about the examples `indices`.

        Args:
            memory: the arrays made by `memory`.
            rows: `(B,)` the rows that start.
            indices: `(B,)` the examples they start from.
            rngs: one generator a starting row.
        """

    def reply(self, turns: Turns) -> Replies:
        """Answer the turns that have just ended; called only where `multi_turn`."""
        raise NotImplementedError(f"{type(self).__name__} is multi_turn and must define reply()")

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the next whole turn of a scripted player for each row, end token included.

        Args:
            turns: the rows whose agent is about to begin a turn; `start` and `stop` are the column
                it will write first, `rngs` are the player's own.
            qualities: how well to play each row, never "random".
        """
        raise NotImplementedError(f"{type(self).__name__} has no scripted player")

    def draw_qualities(self, quality: str, rngs: Sequence[np.random.Generator]) -> list[str]:
        """Return the quality of each episode of a run; "mixed" is a fair coin between two."""
        if quality != "mixed":
            return [quality] * len(rngs)
        return ["expert" if rng.random() < 0.5 else "random" for rng in rngs]

    def demonstrations(
        self, n: int, *, quality: str = "expert", seed: int = 0, reward: Any = None
    ) -> EpisodeDataset:
        """Return `n` episodes of a scripted player.

        Args:
            n: number of episodes.
            quality: one of `qualities`.
            seed: of starts, replies and the script.
            reward: a reward model, or None for the task's own.

        Raises:
            ValueError: an unknown quality, or fewer than one episode.
        """
        assert _demonstrator is not None, "`import text_envs` names the demonstrator"
        return _demonstrator(self, n, quality=quality, seed=seed, reward=reward)
