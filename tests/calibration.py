"""Texts, a task and look-ups that the tests of calibrated rewards use."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from text_envs import EpisodeBatch, Example, Task, TokenVectorEnv
from text_envs.tokenizers import WordTokenizer

A, B, END = 0, 1, 2  # the tokens of Toy
TOY_TEXTS = [
    words + ((END,) if n < 3 else ())
    for n in range(4)
    for words in itertools.product((A, B), repeat=n)
]

Scores = dict[tuple[int, ...], Any]


class Letters(Task):
    """Prompts "p" and "q" with two and with one reference; texts of up to four letters."""

    reward = "length"

    def __init__(self, references: Sequence[Sequence[str]] = (("a b", "a"), ("b",))) -> None:
        super().__init__(
            [Example(p, tuple(texts)) for p, texts in zip("pq", references, strict=True)],
            tokenizer=WordTokenizer(["a", "b", "p", "q"]),
            prompt_length=2,
            max_tokens=4,
        )


def write(env: Any, text: Sequence[int], **options: Any) -> tuple[float, dict[str, Any]]:
    """Write a text into a single environment; return its last reward and info."""
    env.reset(seed=0, options=options)
    for token in text:
        _, paid, over, _, info = env.step(token)
    assert over
    return float(paid), info


def table(scores: Scores) -> Callable[[EpisodeBatch], Any]:
    """Return a reward model that looks up what the agent wrote, end token included."""

    def model(episodes: EpisodeBatch) -> Any:
        rows = episodes.tokens[:, episodes.prompt_length :].tolist()
        pad = episodes.tokenizer.pad_id
        return np.array([scores[tuple(i for i in row if i != pad)] for row in rows])

    return model


def episodes(task: Task, indices: list[int], text: str) -> EpisodeBatch:
    """Return finished episodes in which `text` was written."""
    env = TokenVectorEnv(task, num_envs=len(indices), reward="length", autoreset_mode="DISABLED")
    env.reset(seed=0, options={"index": indices})
    for token in [*task.tokenizer.encode(text), task.tokenizer.eos_id]:
        env.step(np.full(len(indices), token))
    return env.engine.episodes(env.engine.all_rows, ["stop"] * len(indices))


def reward_batch(task: Task, recorded: Any, row: int) -> EpisodeBatch:
    """Return one recorded episode as a reward model sees it."""
    return EpisodeBatch(
        recorded.tokens[[row]],
        recorded.roles[[row]],
        prompt_length=task.prompt_length,
        tokenizer=task.tokenizer,
        example_indices=recorded.example_indices[[row]],
        finish_reasons=[recorded.finish_reasons[row]],
        get_example=task.example,
    )
