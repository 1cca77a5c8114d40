"""IncreasingNumbers-v0: the run that counts, and its law under uniform words."""

from __future__ import annotations

from itertools import product

import gymnasium as gym
import numpy as np
import pytest

from text_envs import TokenEnv
from text_envs.tasks.numbers import IncreasingNumbers
from text_envs.tasks.shared.splits import SPLITS, split_contexts
from text_envs.testing.envs import check_task


def reward_of(env: TokenEnv, index: int, words: list[int]) -> float:
    env.reset(options={"index": index})
    for word in words:
        _, reward, terminated, _, _ = env.step(word)
        if terminated:
            return float(reward)
    return float(env.step(env.tokenizer.eos_id)[1])


@pytest.mark.parametrize(
    ("above", "run"),
    [
        ([1, 2, 3], 3),
        ([1, 3, 4, 4, 5], 3),  # standing still ends the run
        ([2, 1], 1),
        ([0, 1, 2], 0),  # the first word must exceed the prompt's number
        ([-1], 0),
        ([], 0),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 10),
        ([1, 2, 0, 5, 6, 7, 8, 9, 10, 11], 2),  # a second run does not count
    ],
)
def test_the_run_by_hand(above: list[int], run: int) -> None:
    env = gym.make("text_envs/IncreasingNumbers-v0").unwrapped
    index = 3
    start = int(env.task.starts[index])
    assert env.task.example(index).prompt == str(start) and start > 0
    assert reward_of(env, index, [start + step for step in above]) == run / 10


def test_the_closed_form_against_every_sequence_of_actions() -> None:
    task = IncreasingNumbers(numbers=8, max_tokens=3)
    env = TokenEnv(task)
    actions = task.tokenizer.num_actions
    for index in range(len(task)):
        rewards = []
        for sequence in product(range(actions), repeat=3):
            end = sequence.index(8) if 8 in sequence else 3
            rewards.append(reward_of(env, index, list(sequence[:end])))
        mean = task.run_probabilities(index) @ np.arange(4) / 3
        assert np.isclose(np.mean(rewards), mean, atol=1e-12)
        soft = np.log(np.mean(np.exp(np.array(rewards) / 0.2)))
        assert np.isclose(task.log_partition(index, 0.2), soft, atol=1e-12)


def test_random_demonstrations_earn_what_the_closed_form_says() -> None:
    task = IncreasingNumbers()
    shares = np.arange(11) / 10
    exact = np.mean([task.run_probabilities(i) @ shares for i in range(len(task))])
    played = task.demonstrations(4000, quality="random", seed=5).returns
    assert abs(played.mean() - exact) < 4 * played.std() / np.sqrt(len(played))


def test_the_expert_is_perfect_and_the_contract_holds() -> None:
    for split in SPLITS:
        assert IncreasingNumbers(split=split).demonstrations(20).returns.tolist() == [1.0] * 20
    check_task(IncreasingNumbers, card=True)


def test_splits_deal_out_all_contexts_once() -> None:
    for count in (5, 6, 23, 100):
        parts = [split_contexts(count, split).tolist() for split in SPLITS]
        assert sorted(sum(parts, [])) == list(range(count)) and all(parts)
    assert split_contexts(50, "test").tolist() != split_contexts(50, "test", seed=1).tolist()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="numbers must be .* max_tokens \\+ 5 = 15.*got 14"):
        IncreasingNumbers(numbers=14)
    with pytest.raises(ValueError, match="unknown split 'tests'.*Did you mean 'test'"):
        IncreasingNumbers(split="tests")
    with pytest.raises(TypeError, match="no argument 'number'.*Did you mean 'numbers'"):
        gym.make("text_envs/IncreasingNumbers-v0", number=20)
