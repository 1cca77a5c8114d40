"""TargetWords-v0: which columns pay, and what chance earns."""

from __future__ import annotations

from itertools import product

import gymnasium as gym
import numpy as np
import pytest

from text_envs import TokenEnv
from text_envs.tasks.target_words import WORDS, TargetWords
from text_envs.testing.envs import check_reward_model, check_task


def reward_of(env: TokenEnv, index: int, text: str) -> float:
    env.reset(options={"index": index})
    for token in [*env.tokenizer.encode(text), env.tokenizer.eos_id]:
        _, reward, terminated, _, _ = env.step(token)
        if terminated:
            break
    return float(reward)


def test_rewards_by_hand() -> None:
    env = gym.make("text_envs/TargetWords-v0").unwrapped
    index = next(i for i in range(len(env.task)) if env.task.example(i).prompt == "apple bread")
    other = next(i for i in range(len(env.task)) if "apple" not in env.task.example(i).prompt)
    assert reward_of(env, index, "apple bread apple lemon") == 3 / 6
    assert reward_of(env, index, "bread " * 6) == 1.0  # repeating one word is as good
    assert reward_of(env, index, "") == 0.0
    assert reward_of(env, other, "apple apple") == 0.0


def test_fixed_targets_need_no_prompt() -> None:
    env = gym.make("text_envs/TargetWords-v0", targets=["lemon"]).unwrapped
    assert len(env.task) == 1 and env.task.prompt_length == 1
    assert reward_of(env, 0, "lemon apple lemon") == 2 / 6


def test_what_chance_earns_against_every_sequence_of_actions() -> None:
    task = TargetWords(words=4, max_tokens=3, num_targets=2)
    env = TokenEnv(task)
    rewards = []
    for sequence in product(range(5), repeat=3):
        end = sequence.index(4) if 4 in sequence else 3
        rewards.append(reward_of(env, 1, " ".join(WORDS[i] for i in sequence[:end])))
    assert np.isclose(np.mean(rewards), task.random_return, atol=1e-12)
    played = TargetWords().demonstrations(4000, quality="random").returns
    error = played.std() / np.sqrt(len(played))
    assert abs(played.mean() - TargetWords().random_return) < 4 * error


def test_the_expert_is_perfect_and_the_contract_holds() -> None:
    task = TargetWords(num_targets=3)
    assert task.demonstrations(50).returns.tolist() == [1.0] * 50
    check_task(TargetWords, card=True)
    check_reward_model(TargetWords().reward, task=TargetWords)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="unknown target 'lemom'.*Did you mean 'lemon'"):
        TargetWords(targets=["lemom"])
    with pytest.raises(ValueError, match="list of different words, got 'lemon'"):
        TargetWords(targets="lemon")
    with pytest.raises(ValueError, match="list of different words"):
        TargetWords(targets=[])
    with pytest.raises(ValueError, match="words must be an integer from 4 to 12, got 13"):
        TargetWords(words=13)
    with pytest.raises(ValueError, match="num_targets must be an integer from 1 to 3, got 4"):
        TargetWords(words=4, num_targets=4)
    with pytest.raises(ValueError, match="unknown split"):
        TargetWords(targets=["lemon"], split="dev")
