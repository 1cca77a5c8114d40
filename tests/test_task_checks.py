"""`check_task` and `check_reward_model`: every fault they look for, made on purpose."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import Echo

import text_envs
from text_envs import EpisodeBatch, Replies, Turns
from text_envs.tasks.target_words import TargetWords
from text_envs.tasks.toy import Toy
from text_envs.testing.envs import check_env_id, check_reward_model, check_task

EXAMPLES = Path(text_envs.__file__).parent.parent / "examples"


def test_sound_tasks_pass() -> None:
    check_task(Toy, card=True)
    check_task(Toy(), reward="length")
    check_task("text_envs.tasks.target_words:TargetWords", num_targets=3)
    check_task(Echo())
    check_task(Echo(max_turn_tokens=2))


class Remembering(Echo):
    """Keeps the number of turns in the task: rows disturb one another."""

    count = 0

    def reply(self, turns: Turns) -> Replies:
        replies = super().reply(turns)
        self.count += 1
        replies.rewards[:] = self.count
        return replies


class LeftPaddedReplies(Echo):
    def reply(self, turns: Turns) -> Replies:
        replies = super().reply(turns)
        return Replies(
            replies.tokens[:, ::-1], replies.rewards, replies.done, replies.finish_reasons
        )


class BadExpert(Toy):
    def script(self, turns: Turns, qualities: Any) -> list[list[int]]:
        return [[1, 1, 1] for _ in qualities]


class Uncarded(Toy):
    """A task whose docstring says nothing else."""


class UnpaddedPrompts(Toy):
    def prompts(self, indices: Any) -> Any:
        return np.full((len(indices), 1), self.tokenizer.pad_id)


class SameSplits(TargetWords):
    def __init__(self, *, split: str = "train") -> None:
        super().__init__(split="train")


class UnseededExpert(Toy):
    rng = np.random.default_rng(0)

    def script(self, turns: Turns, qualities: Any) -> list[list[int]]:
        return [[int(self.rng.integers(2)), 1, 2] for _ in qualities]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Remembering, "state outside of memory"),
        (LeftPaddedReplies, "replies must be right-padded"),
        (BadExpert, "expert plays worse than chance"),
        (UnpaddedPrompts, "left-padded and not empty"),
        (SameSplits, "context 'apple bread' is in 'train' and in 'validation'"),
        (UnseededExpert, "a seed plays two games"),
    ],
)
def test_faults_of_tasks_are_found(task: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_task(task)


def test_a_card_with_a_missing_heading_is_found() -> None:
    with pytest.raises(AssertionError, match="headings"):
        check_task(Uncarded, card=True)


def test_sound_reward_models_pass() -> None:
    for reward in ("length", "sentiment", {"length": -0.1, "sentiment": 2.0}):
        check_reward_model(reward)
    check_reward_model(Toy().reward, task=Toy())
    check_reward_model(lambda episodes: np.random.rand(len(episodes)), deterministic=False)


class Greedy:
    """Rewards that depend on the batch: the share of the longest text."""

    def __call__(self, episodes: EpisodeBatch) -> Any:
        return episodes.lengths / max(1, episodes.lengths.max())


class Counting:
    calls = 0

    def __call__(self, episodes: EpisodeBatch) -> Any:
        self.calls += 1
        return episodes.lengths + self.calls


def scribbling(episodes: EpisodeBatch) -> Any:
    episodes.tokens[:] = 0
    return np.zeros(len(episodes))


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Greedy(), "alone and .* in a batch"),
        (Counting(), "a second call gave other rewards"),
        (lambda episodes: np.arange(len(episodes)), "order of the batch"),
        (scribbling, "changed the tokens"),
        (lambda episodes: np.full(len(episodes), np.nan), "rewards must be finite"),
        (lambda episodes: [1.0], "returned shape"),
    ],
)
def test_faults_of_reward_models_are_found(reward: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_reward_model(reward)


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*")
@pytest.mark.filterwarnings("ignore:.*Box observation space.*")
def test_the_example_of_a_task_in_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    env = gym.make("add_a_task:examples/Opposites-v0")
    env.reset(options={"index": 0})
    for token in (*env.unwrapped.tokenizer.encode("cold"), env.unwrapped.tokenizer.eos_id):
        _, reward, *_ = env.step(token)
    assert reward == 1.0
    check_env_id("examples/Opposites-v0")
    check_task("add_a_task:Opposites")
    assert env.unwrapped.task.demonstrations(8).returns.tolist() == [1.0] * 8
    del gym.registry["examples/Opposites-v0"]
    runpy.run_path(str(EXAMPLES / "add_a_task.py"))


def test_the_example_in_a_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "text_envs", "play", "add_a_task:examples/Opposites-v0"],
        input=b"", capture_output=True, cwd=EXAMPLES, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and b"The input has ended" in done.stdout
