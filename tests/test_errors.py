"""Bad input: what was received, what is accepted, and nothing lost."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import Echo

from text_envs import Example, RewardModelError, Task, TokenEnv, TokenVectorEnv, rewards
from text_envs.tasks.toy import Toy
from text_envs.tokenizers import WordTokenizer


class Prompts(Task):
    reward = "length"

    def __init__(self, prompts: list[str], **kwargs: Any) -> None:
        super().__init__(
            [Example(prompt) for prompt in prompts],
            tokenizer=WordTokenizer(["one", "two", "three", "four"]),
            prompt_length=3, max_tokens=4, **kwargs,
        )  # fmt: skip


def test_prompts_over_length_are_named_or_shortened() -> None:
    with pytest.raises(ValueError, match=r"prompt 1 has 5 tokens, 2 more than prompt_length=3"):
        Prompts(["one", "one two three four"])
    task = Prompts(["one", "one two three four"], truncate_prompts=True)
    begin = task.tokenizer.bos_id
    assert task.prompts(np.array([1])).tolist() == [[begin, 2, 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indx": 0}, r"unknown reset option 'indx'.*Did you mean 'index'"),
        ({"index": 1}, r"1 is not an example; accepted: 0\.\.0"),
        ({"index": "a"}, "must be an integer"),
        ({"prefix": [0, 1, 0]}, r"3 tokens; with max_tokens=3 at most 2 fit"),
        ({"prefix": [7]}, r"prefix token 7 is not an action; accepted: 0\.\.2"),
        ({"prefix": [0, 2]}, "ends the episode at its token 1"),
        ({"group_size": 2}, "divides the 1 rows"),
        ({"state": {"version": 7}}, "not a state"),
        ({"index": 0, "state": {}}, "already fixes the start"),
    ],
)
def test_reset_options(options: dict[str, Any], message: str) -> None:
    env = TokenEnv(Toy())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    env.reset(options={"index": 0})  # and the environment is as usable as before
    env.step(0)


@pytest.mark.parametrize("action", [-1, 3, 10**9])
def test_actions_out_of_range(action: int) -> None:
    env, vector = TokenEnv(Toy()), TokenVectorEnv(Toy(), num_envs=2)
    env.reset()
    vector.reset()
    with pytest.raises(ValueError, match=rf"action {action} .*accepted: 0\.\.2"):
        env.step(action)
    with pytest.raises(ValueError, match=rf"action {action} of row 1 .*accepted: 0\.\.2"):
        vector.step(np.array([0, action]))
    assert env.step(0)[0][1] == 0


@pytest.mark.parametrize("action", [0.0, "a", None, True, [0]])
def test_actions_of_another_type(action: Any) -> None:
    env = TokenEnv(Toy())
    env.reset()
    with pytest.raises(ValueError, match="action must be an integer"):
        env.step(action)


def test_step_before_reset_and_after_the_end() -> None:
    env, vector = TokenEnv(Toy()), TokenVectorEnv(Toy(), num_envs=2)
    for tokens in (env, vector):
        with pytest.raises(RuntimeError, match="before reset"):
            tokens.step(0 if tokens is env else np.array([0, 0]))
    env.reset()
    env.step(2)
    with pytest.raises(RuntimeError, match="after the end"):
        env.step(0)


@pytest.mark.parametrize("actions", [np.zeros(3, int), np.zeros(2), np.zeros((2, 1), int), [0]])
def test_vector_actions_of_another_shape(actions: Any) -> None:
    vector = TokenVectorEnv(Toy(), num_envs=2)
    vector.reset()
    with pytest.raises(ValueError, match="actions must be 2 integers"):
        vector.step(actions)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reward": "sentimnt"}, r"unknown reward 'sentimnt'.*Did you mean 'sentiment'"),
        ({"reward": "no_such_module:f"}, "cannot import module 'no_such_module'"),
        ({"reward": "text_envs.tasks.toy:ab_rewrd"}, "Did you mean 'ab_reward'"),
        ({"reward": "hf:/no/such/model"}, "cannot load"),
        ({"reward": 3}, "must be a callable"),
        ({"reward": rewards.Length}, "must be an instance, got the class Length"),
        ({"reward": {}}, "at least one part"),
        ({"reward": {"length": float("nan")}}, "must be finite"),
        ({"max_tokns": 3}, r"takes no argument 'max_tokns'.*Did you mean 'max_tokens'"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"render_mode": "asni"}, "Did you mean 'ansi'"),
        ({"reward": "length", "reward_kwargs": {"goal": 3}}, "goal"),
    ],
)
# Gymnasium warns of an unknown render mode before the environment refuses it.
@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes.*")
def test_construction(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        gym.make("text_envs/Toy-v0", **kwargs)
    with pytest.raises((ValueError, TypeError), match=message):
        gym.make_vec("text_envs/Toy-v0", num_envs=2, **kwargs)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda e: np.full(len(e), np.nan), r"<lambda>.*returned nan for example 0.*'a'"),
        (lambda e: np.zeros(len(e) + 1), r"returned shape \(3,\) for 2 episodes"),
        (lambda e: ["x"] * len(e), "returned list, not numbers"),
        (lambda e: 1 / 0, "raised ZeroDivisionError.*example 0.*text 'a'"),
    ],
)
def test_a_failing_reward_model_loses_nothing(model: Any, message: str) -> None:
    vector = TokenVectorEnv(Toy(), num_envs=3, reward=model)
    vector.reset(seed=0)
    vector.step(np.array([0, 0, 0]))
    before = vector.get_state()
    with pytest.raises(RewardModelError, match=message) as caught:
        vector.step(np.array([2, 2, 1]))
    assert [episode.text for episode in caught.value.episodes] == ["a", "a"]
    assert _same(before, vector.get_state())
    vector.reward_model = "length"
    _, reward, terminated, _, _ = vector.step(np.array([2, 2, 1]))
    assert reward.tolist() == [1.0, 1.0, 0.0] and terminated.tolist() == [True, True, False]


def test_a_failing_reward_model_undoes_replies_and_memory() -> None:
    def fail(episodes: object) -> object:
        raise OSError("no connection")

    vector = TokenVectorEnv(Echo(), num_envs=2, reward=fail)
    vector.reset(seed=0)
    vector.step(np.array([1, 2]))
    before = vector.get_state()
    with pytest.raises(RewardModelError, match="no connection"):
        vector.step(np.array([4, 4]))
    after = vector.get_state()
    before.pop("rng"), after.pop("rng")  # a reply that was drawn is drawn anew
    assert _same(before, after)


def test_a_failing_reply_undoes_the_step() -> None:
    class Broken(Echo):
        def reply(self, turns: Any) -> Any:
            super().reply(turns)
            raise OSError("the other side hung up")

    vector = TokenVectorEnv(Broken(), num_envs=2)
    vector.reset(seed=0)
    vector.step(np.array([1, 2]))
    before = vector.get_state()
    with pytest.raises(OSError, match="hung up"):
        vector.step(np.array([4, 1]))
    after = vector.get_state()
    before.pop("rng"), after.pop("rng")
    assert _same(before, after)


def test_two_names_for_one_thing_are_refused() -> None:
    with pytest.raises(TypeError, match="is built already"):
        TokenEnv(Toy(), max_tokens=3)
    with pytest.raises(ValueError, match="num_envs must be"):
        TokenVectorEnv(Toy(), num_envs=0)
    with pytest.raises(ValueError, match="unknown autoreset_mode 'LATER'"):
        TokenVectorEnv(Toy(), autoreset_mode="LATER")


def test_states_of_other_environments_are_refused() -> None:
    state = TokenEnv(Toy()).get_state()
    with pytest.raises(ValueError, match="has 4 columns, this environment 16"):
        TokenEnv(Echo()).set_state(state)
    with pytest.raises(ValueError, match=re.escape("has 1 rows, this environment 2")):
        TokenVectorEnv(Toy(), num_envs=2).set_state(state)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(np.array_equal(one, other))
