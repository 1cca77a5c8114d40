"""Rewards from a server of one's own: the protocol, its violations, and steps that are repeated."""

from __future__ import annotations

import copy
import pickle
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from reward_batches import batch
from reward_server import Reply, Server

from text_envs import RewardModelError
from text_envs.rewards import resolve, score
from text_envs.rewards.remote import Remote
from text_envs.rewards.transport import RemoteRewardError
from text_envs.testing.envs import check_reward_model


def words(number: int, body: Any) -> Reply:
    return Reply({"rewards": [len(e["text"].split()) for e in body["episodes"]]})


def two(number: int, body: Any) -> Reply:
    lengths = [len(e["text"].split()) for e in body["episodes"]]
    return Reply({"components": {"long": lengths, "short": [-n / 2 for n in lengths]}})


def test_the_episodes_as_the_server_sees_them() -> None:
    metadata = [
        {"n": np.int64(3), "list": np.arange(2), "inner": MappingProxyType({"a": (1, 2)})},
        {},
    ]
    episodes = batch(["good film", ""], [["a film"], []], metadata=metadata)
    with Server(words) as server:
        assert Remote(server.url)(episodes).tolist() == [2, 0]
    assert server.bodies == [
        {
            "episodes": [
                {
                    "prompt": "a film", "text": "good film", "transcript": "good film",
                    "references": ["a film"],
                    "metadata": {"n": 3, "list": [0, 1], "inner": {"a": [1, 2]}},
                    "finish_reason": "stop",
                },
                {
                    "prompt": "a film", "text": "", "transcript": "", "references": [],
                    "metadata": {}, "finish_reason": "stop",
                },
            ]
        }
    ]  # fmt: skip


def test_metadata_without_a_form_in_json_are_named() -> None:
    with pytest.raises(TypeError, match="metadata of example 0 .* object has no form in JSON"):
        Remote("http://host")(batch(["good"], metadata=[{"it": object()}]))


def test_large_batches_are_several_requests_in_order() -> None:
    texts = ["good " * (row % 5) for row in range(11)]
    with Server(words) as server:
        rewards = Remote(server.url, batch_size=4)(batch(texts))
        assert rewards.tolist() == [row % 5 for row in range(11)]
        assert sorted(len(body["episodes"]) for body in server.bodies) == [3, 4, 4]
        check_reward_model(Remote(server.url, batch_size=7))


def test_components_become_a_ledger() -> None:
    with Server(two) as server:
        model = Remote(server.url, batch_size=1)
        ledger = score(model, batch(["good film", "bad"]))
        assert {name: column.tolist() for name, column in ledger.items()} == {
            "long": [2, 1], "short": [-1, -0.5],
        }  # fmt: skip
        assert model.components == ("long", "short")
        ordered = Remote(server.url, components=("short", "long"))
        assert list(score(ordered, batch(["bad"]))) == ["short", "long"]
        env = gym.make("text_envs/Toy-v0", reward="remote", reward_kwargs={"url": server.url})
        env.reset(seed=0)
        env.step(0)
        *_, info = env.step(2)
        assert info["reward_terms"] == {"long": 1.0, "short": -0.5}
        check_reward_model(ordered, episodes=4)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"rewards": [1.0]}, "1 rewards 'task' for 2 episodes"),
        ({"rewards": [1.0, None]}, "no list of numbers"),
        ({"rewards": [1.0, True]}, "no list of numbers"),
        ({"rewards": 3}, "no list of numbers: 3"),
        (b'{"rewards": [1.0, NaN]}', "not finite"),
        (b'{"rewards": [1.0, 1e999]}', "not finite"),
        ({"scores": [1, 2]}, "neither 'rewards' nor 'components'"),
        ([1, 2], "neither 'rewards' nor 'components'"),
        ({"components": {}}, "must map names to rewards"),
        ({"components": {"a": [1]}}, "1 rewards 'a' for 2 episodes"),
    ],
)
def test_violations_are_tried_again_and_then_told(answer: Any, message: str) -> None:
    def respond(number: int, body: Any) -> Reply:
        return Reply(answer) if number < 2 else words(number, body)

    episodes = batch(["good film", "bad"])
    with Server(respond) as server:
        assert Remote(server.url, backoff=0.0)(episodes).tolist() == [2, 1]
        server.respond = lambda number, body: Reply(answer)
        with pytest.raises(RemoteRewardError, match=f"in 2 tries; .*{message}"):
            Remote(server.url, retries=1, backoff=0.0)(episodes)


def test_other_components_than_expected() -> None:
    with Server(two) as server:
        with pytest.raises(RemoteRewardError, match="long, short, while a, b are expected"):
            Remote(server.url, components=("a", "b"), retries=0)(batch(["good"]))

        def mixed(number: int, body: Any) -> Reply:
            return (two if body["episodes"][0]["text"] == "good" else words)(number, body)

        server.respond = mixed
        with pytest.raises(RemoteRewardError, match="long, short for the first .* task from epi"):
            Remote(server.url, batch_size=1, concurrency=1)(batch(["good", "bad"]))


def test_a_step_that_failed_can_be_repeated() -> None:
    with Server(lambda number, body: Reply({}, status=503)) as server:
        kwargs = {"url": server.url, "retries": 1, "backoff": 0.0}
        env = gym.make("text_envs/Toy-v0", reward="remote", reward_kwargs=kwargs)
        env.reset(seed=0)
        env.step(0)
        with pytest.raises(RewardModelError, match="'remote' raised .*status 503.*text 'a'"):
            env.step(2)
        server.respond = words
        observation, reward, terminated, _, info = env.step(2)
        assert (reward, terminated, info["text"]) == (1.0, True, "a")


def test_copies_and_pickles_have_connections_of_their_own() -> None:
    with Server(words) as server:
        model = resolve("remote", url=server.url)
        assert copy.deepcopy(model).client is not model.client
        assert copy.deepcopy(model)(batch(["good film"])).tolist() == [2]
        again = pickle.loads(pickle.dumps(model))
        assert again(batch(["good"])).tolist() == [1]
    with pytest.raises(ValueError, match="batch_size must be .* got 0"):
        Remote("http://host", batch_size=0)
