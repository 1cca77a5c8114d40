"""An LLM judge on a real endpoint that marks, rambles, fails and comes back."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from reward_batches import batch
from reward_server import Reply, Server, mark

from text_envs import RewardModelError
from text_envs.rewards import resolve
from text_envs.rewards.judge import Judge
from text_envs.rewards.transport import RemoteRewardError, UnusableAnswer
from text_envs.testing.envs import check_reward_model


def words_in(body: Any) -> int:
    """Return how many words stand between the marks of the template's text."""
    content = body["messages"][-1]["content"]
    return len(content.split("<text>")[1].split("</text>")[0].split())


def by_length(number: int, body: Any) -> Reply:
    return mark(f"Short and fine. Score: {min(words_in(body), 10)}")


def test_texts_are_marked_and_what_is_sent() -> None:
    with Server(by_length) as server:
        judge = Judge("a-model", base_url=f"{server.url}/v1/", system="Be strict.", retries=0)
        assert judge(batch(["good film", "bad", "a dog runs"])).tolist() == [2, 1, 3]
    assert set(server.paths) == {"/v1/chat/completions"}
    body = next(b for b in server.bodies if words_in(b) == 3)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("a-model", 0, 256)
    assert body["messages"][0] == {"role": "system", "content": "Be strict."}
    assert "<prompt>\na film\n</prompt>" in body["messages"][1]["content"]
    assert "from 0 (worst) to 10" in body["messages"][1]["content"]


def test_the_template_sees_references_and_both_sides() -> None:
    template = "{reference}|{references}|{transcript}|{low}..{high}"
    judge = Judge("m", base_url="http://host", template=template, low=1, high=5)
    episodes = batch(["good"], [["a film", "a movie"]])
    assert judge.messages(episodes) == ["a film|a film\na movie|good|1..5"]
    braces = Judge("m", base_url="http://host", template="{{json}} {text}")
    assert braces.messages(episodes) == ["{json} good"]
    with pytest.raises(ValueError, match="example 0 has no references"):
        judge.messages(batch(["good"]))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Score: 7", 7), ("score 7.5", 7.5), ("**Score:** 3/10", 3), ("8", 8), (" 2.5\n", 2.5),
        ("Score: 2? No: on reflection, Score: 4", 4), ("Score:\n-1", None), ("Score: 11", None),
        ("I like 3 things", None), ("", None), ("7 out of 10", None), ("Score: nan", None),
    ],
)  # fmt: skip
def test_marks_are_read_or_refused(reply: str, expected: float | None) -> None:
    judge = Judge("m", base_url="http://host")
    if expected is not None:
        assert judge.read_mark(reply) == expected
        return
    with pytest.raises(UnusableAnswer):
        judge.read_mark(reply)


def test_a_pattern_of_ones_own() -> None:
    judge = Judge("m", base_url="http://host", pattern=r"\[\[(-?\d+)\]\]", low=-5, high=5)
    assert judge.read_mark("Score: 1, no, [[-3]]") == -3
    with pytest.raises(UnusableAnswer, match="no mark in the reply '4'"):
        judge.read_mark("4")
    word = Judge("m", base_url="http://host", pattern="(good|bad)")
    with pytest.raises(UnusableAnswer, match="'bad' is no number"):
        word.read_mark("bad")


@pytest.mark.parametrize(
    "garbage",
    [mark("I would rather not."), mark("Score: 99"), Reply({"choices": []}),
     Reply({"choices": [{"message": {"content": None}}]}), Reply([1]), Reply(b"oops")],
)  # fmt: skip
def test_garbage_is_asked_for_again_and_then_told(garbage: Reply) -> None:
    def respond(number: int, body: Any) -> Reply:
        return garbage if number < 2 else mark("Score: 6")

    with Server(respond) as server:
        judge = Judge("m", base_url=server.url, backoff=0.0)
        assert judge(batch(["good"])).tolist() == [6]
        assert len(server.bodies) == 3
        server.respond = lambda number, body: garbage
        with pytest.raises(RemoteRewardError, match="in 2 tries; the last gave an answer that"):
            Judge("m", base_url=server.url, backoff=0.0, retries=1)(batch(["good"]))


def test_a_step_that_could_not_be_marked_is_repeated_without_loss() -> None:
    def failing(number: int, body: Any) -> Reply:
        return Reply({}, status=500) if words_in(body) == 2 else by_length(number, body)

    with Server(failing) as server:
        judge = Judge("m", base_url=server.url, retries=1, backoff=0.0, concurrency=1)
        envs = gym.make_vec("text_envs/Toy-v0", num_envs=3, reward=judge)
        envs.reset(seed=0)
        envs.step(np.array([0, 0, 0]))
        envs.step(np.array([1, 1, 0]))
        with pytest.raises(RewardModelError, match="judge:m.*no usable answer in 2 tries") as told:
            envs.step(np.array([2, 2, 2]))
        assert len(told.value.episodes) == 3
        server.respond = by_length
        _, rewards, *_ = envs.step(np.array([2, 2, 2]))
        assert rewards.tolist() == [2, 2, 2]


def test_marks_that_arrived_are_not_paid_for_twice() -> None:
    def failing(number: int, body: Any) -> Reply:
        return Reply({}, status=400) if words_in(body) == 3 else by_length(number, body)

    episodes = batch(["good", "good film", "a dog runs"])
    with Server(failing) as server:
        judge = Judge("m", base_url=server.url, concurrency=1)
        with pytest.raises(RemoteRewardError):
            judge(episodes)
        server.respond = by_length
        assert judge(episodes).tolist() == [1, 2, 3]
        assert [words_in(body) for body in server.bodies] == [1, 2, 3, 3]
        assert judge(episodes).tolist() == [1, 2, 3]  # nothing is remembered after a success
        assert len(server.bodies) == 7


def test_by_name_in_an_environment_whose_spec_is_plain_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with Server(by_length) as server:
        kwargs = {
            "model": "m", "base_url": server.url, "api_key_env": "JUDGE_KEY",
            "options": {"max_completion_tokens": 9},
        }  # fmt: skip
        env = gym.make("text_envs/Toy-v0", reward="judge", reward_kwargs=kwargs)
        assert "sk-secret" not in env.spec.to_json()
        assert json.loads(env.spec.to_json())["kwargs"]["reward_kwargs"] == kwargs
        env.reset(seed=0)
        env.step(0)
        assert env.step(2)[1] == 1.0
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"
        assert (
            server.bodies[0]["max_completion_tokens"] == 9 and "temperature" not in server.bodies[0]
        )
        judge = env.unwrapped.reward_model
        assert copy.deepcopy(judge).client is not judge.client
        shown = repr(judge) + repr(vars(judge)) + repr(pickle.dumps(judge))
        assert "sk-secret" not in shown
        check_reward_model(judge, episodes=3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"template": "{txt}"}, "unknown field 'txt' in the template. Did you mean 'text'"),
        ({"template": "{text.__class__}"}, "unknown field"),
        ({"template": "{prompt}"}, "shows neither {text} nor {transcript}"),
        ({"low": 3, "high": 3}, "lowest mark must be below the highest"),
        ({"pattern": r"\d+"}, "has no group"),
        ({"timeout": -1}, "timeout must be positive"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        resolve("judge", model="m", base_url="http://host", **kwargs)
