"""Data and a task that several tests use."""

from __future__ import annotations

from typing import Any

import numpy as np

from text_envs import Example, Replies, Task, Turns
from text_envs.tokenizers import WordTokenizer

SENTENCES = [
    "the film is a quiet triumph of patience and light",
    "a loud empty picture that never finds its story",
    "the cast is warm and the script is sharp",
    "nobody involved seems to enjoy this film",
]


class Echo(Task):
    """A dialogue for tests: the agent says a word, the environment repeats it, `bye` ends it.

    The number of turns is remembered, each turn costs 1, the last one costs nothing, and the
    environment's reply has one or two tokens, drawn from the row's generator.
    """

    multi_turn = True

    def __init__(self, max_tokens: int = 12, max_turn_tokens: int | None = None) -> None:
        super().__init__(
            [Example("say"), Example("say bye")],
            tokenizer=WordTokenizer(["say", "hello", "bye", "yes"]),
            prompt_length=4,
            max_tokens=max_tokens,
        )
        self.max_turn_tokens = max_turn_tokens

    def memory(self, num_envs: int) -> dict[str, Any]:
        return {"turns": np.zeros(num_envs, dtype=np.int64)}

    def begin(self, memory: Any, rows: Any, indices: Any, rngs: Any) -> None:
        memory["turns"][rows] = 0

    def reply(self, turns: Turns) -> Replies:
        turns.memory["turns"][turns.rows] += 1
        spoken = turns.tokens[np.arange(len(turns.rows)), turns.start]
        two = np.array([rng.random() < 0.5 for rng in turns.rngs], dtype=bool)
        pad = self.tokenizer.pad_id
        tokens = np.stack([np.full(len(two), 3), np.where(two, spoken, pad)], axis=1)
        done = spoken == 2
        return Replies(tokens, np.where(done, 0.0, -1.0), done, ["bye"] * len(two))
