"""The gate of what is paid: names and values, whoever they come from."""

from __future__ import annotations

import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import text_envs
from text_envs import RewardModelError, TokenVectorEnv
from text_envs.core.ledger import as_numbers, check_names
from text_envs.rewards import Scored, WeightedSum
from text_envs.tasks.toy import Toy

A, B, EOS = 0, 1, 2


class Named:
    """Pays 1 for each of the components it names."""

    def __init__(self, *names: Any) -> None:
        self.components = names

    def __call__(self, episodes: text_envs.EpisodeBatch) -> np.ndarray:
        return np.ones((len(episodes), len(self.components)))


@pytest.mark.parametrize("names", [
    ("shaping",), ("reward_model",), ("x", "_x"), ("_x",), ("",), ("x", "x"), (1, 2), (None,),
    (["x"],),
])  # fmt: skip
def test_names_that_a_ledger_cannot_have(names: Any) -> None:
    with pytest.raises(ValueError, match="reward term"):
        check_names(names)
    with pytest.raises((ValueError, RewardModelError), match="reward term"):
        env = gym.make("text_envs/Toy-v0", reward=Named(*names))
        env.reset(seed=0)
        env.step(EOS)


@pytest.mark.parametrize("name", ["shaping", "reward_model", "_x", ""])
def test_weights_and_servers_bring_names_too(name: str) -> None:
    with pytest.raises(ValueError, match="reward term"):
        WeightedSum({name: (1.0, lambda episodes: np.zeros(len(episodes)))})
    with pytest.raises(ValueError, match="reward term"):
        gym.make("text_envs/Toy-v0", reward={name: [1.0, "length"]})
    with pytest.raises(ValueError, match="reward term"):
        gym.make(
            "text_envs/Toy-v0", reward="remote",
            reward_kwargs={"url": "http://127.0.0.1:9/", "components": [name]},
        )  # fmt: skip


@pytest.mark.parametrize("names", [("task",), ("task", "style"), ("a", "b", "c")])
@pytest.mark.parametrize("env_id", ["text_envs/Toy-v0", "text_envs/Wordle-v0"])
def test_the_ledger_sums_to_the_reward_under_any_good_names(env_id: str, names: Any) -> None:
    env = gym.make_vec(env_id, num_envs=4, reward=Named(*names))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    keys = None
    for _ in range(60):
        _, rewards, _, _, infos = env.step(rng.integers(env.single_action_space.n, size=4))
        terms = infos["reward_terms"]
        keys = keys or set(terms)
        assert set(terms) == keys
        total = sum(values for name, values in terms.items() if not name.startswith("_"))
        np.testing.assert_allclose(total, rewards)


GOOD: list[Any] = [
    [0.5, 1], (1, 0), [True, False], np.array([1, 2], np.int8), np.array([1, 0], bool),
    np.array([1.5, 2], np.float16), [np.float32(1), 2], [Fraction(1, 2), 1], torch.ones(2),
    torch.ones(2, dtype=torch.bfloat16), torch.ones(2, requires_grad=True),
    np.ma.masked_array([1.0, 2.0], mask=[False, False]), [torch.tensor(1.0), torch.tensor(2.0)],
]  # fmt: skip
BAD: list[Any] = [
    np.ma.masked_array([1.0, 2.0], mask=[False, True]), np.ones(2, complex), [1j, 2],
    np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"), np.ones(2, "timedelta64[s]"),
    [datetime.timedelta(1)] * 2, np.zeros((2, 0)), [10**400, 1], [None, 1.0], ["1", "2"],
    np.array(["1", "2"]), [b"1", b"2"], [[1, 2], [3]], {"a": 1}, iter([1, 2]), object(), 1.0, [],
    [float("inf"), 0], [float("nan"), 0], [1e39, 0], np.zeros((2, 1, 1)), None,
    torch.ones(2, dtype=torch.complex64), [Decimal("nan"), 1],
]  # fmt: skip


@pytest.mark.parametrize("values", GOOD, ids=range(len(GOOD)))
def test_values_that_are_rewards(values: Any) -> None:
    env = TokenVectorEnv(Toy(), num_envs=2, reward=lambda episodes: values)
    env.reset(seed=0)
    _, rewards, terminated, _, _ = env.step(np.array([EOS, EOS]))
    assert terminated.all() and rewards.dtype == np.float64
    np.testing.assert_allclose(rewards, as_numbers(values))


@pytest.mark.parametrize("values", BAD, ids=range(len(BAD)))
def test_values_that_are_none(values: Any) -> None:
    env = TokenVectorEnv(Toy(), num_envs=2, reward=lambda episodes: values)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(RewardModelError, match="reward model '<lambda>' returned") as caught:
        env.step(np.array([EOS, EOS]))
    assert len(caught.value.episodes) == 2 and "example 0" in str(caught.value)
    assert np.array_equal(env.get_state()["episode"]["tokens"], before["episode"]["tokens"])
    env.reward_model = "length"
    env.step(np.array([EOS, EOS]))


@pytest.mark.parametrize("details", [
    {"_x": 1.0}, {"": 1.0}, {1: 1.0}, {"x": "word"}, {"x": [1.0, 2.0, 3.0]}, {"x": None},
    {"x": np.ones(2, complex)}, [1.0], "x",
])  # fmt: skip
def test_wrong_details_are_refused_by_the_same_error(details: Any) -> None:
    env = TokenVectorEnv(
        Toy(), num_envs=2, reward=lambda episodes: Scored(np.ones(len(episodes)), details)
    )
    env.reset(seed=0)
    with pytest.raises(RewardModelError, match="detail|reward term"):
        env.step(np.array([EOS, EOS]))


class Shaped:
    """Pays what it is told to."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def bind(self, task: text_envs.Task) -> None:
        """Any task will do."""

    def shape(self, tokens: Any, actions: Any, rows: Any) -> Any:
        return self.values


@pytest.mark.parametrize("values", [[np.nan, 0], np.ones(2, complex), np.ones(3), ["x", "y"]])
def test_shaping_passes_the_same_gate(values: Any) -> None:
    env = TokenVectorEnv(Toy(), num_envs=2, shaping=Shaped(values))
    env.reset(seed=0)
    with pytest.raises(RewardModelError, match="shaping Shaped returned"):
        env.step(np.array([A, B]))


class Chatty(Toy):
    """Replies to every turn, and pays what it is told to."""

    multi_turn = True
    paid: Any = None

    def reply(self, turns: text_envs.Turns) -> text_envs.Replies:
        count = len(turns.rows)
        nothing = np.full((count, 1), self.tokenizer.pad_id)
        return text_envs.Replies(nothing, self.paid, np.ones(count, bool), ["stop"] * count)


@pytest.mark.parametrize("values", [[np.nan, 0], np.ones(2, complex), np.ones(3)])
def test_replies_pass_the_same_gate(values: Any) -> None:
    task = Chatty()
    task.paid = values
    env = TokenVectorEnv(task, num_envs=2)
    env.reset(seed=0)
    with pytest.raises(RewardModelError, match="the reply of Chatty returned"):
        env.step(np.array([EOS, EOS]))
    task.paid = np.array([1.0, 2.0])
    *_, infos = env.step(np.array([EOS, EOS]))
    assert infos["reward_terms"]["task"].tolist() == [1.0, 2.0]
