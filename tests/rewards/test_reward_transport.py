"""JSON over HTTP against a real server: what is tried again, how long, and what is never told."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from typing import Any

import pytest
from reward_server import Reply, Server

from text_envs.rewards.transport import JsonClient, RemoteRewardError, UnusableAnswer, _retry_after

KEY = "sk-8f1e-very-secret"


def number_of(answer: Any, number: int) -> float:
    """Read an answer of the form {"value": x}."""
    if "value" not in answer:
        raise UnusableAnswer(f"no value in {answer}")
    return float(answer["value"])


def ask(client: JsonClient, count: int = 1) -> dict[int, float]:
    answers: dict[int, float] = {}
    client.post_all({row: {"row": row} for row in range(count)}, number_of, answers)
    return answers


def test_every_request_gets_its_own_answer_whatever_the_order() -> None:
    def respond(number: int, body: Any) -> Reply:
        time.sleep(0.03 * (body["row"] % 3))
        return Reply({"value": 10 * body["row"]})

    with Server(respond) as server:
        client = JsonClient(server.url, concurrency=4)
        assert ask(client, 9) == {row: 10.0 * row for row in range(9)}
        assert ask(client, 0) == {}
    assert all(headers["Content-Type"] == "application/json" for headers in server.headers)
    assert not any("Authorization" in headers for headers in server.headers)


def test_requests_are_under_way_at_once() -> None:
    together = threading.Barrier(4, timeout=5)

    def respond(number: int, body: Any) -> Reply:
        together.wait()  # comes through only if four requests are here
        return Reply({"value": 1})

    with Server(respond) as server:
        assert len(ask(JsonClient(server.url, concurrency=4, timeout=5, retries=0), 8)) == 8


@pytest.mark.parametrize(
    "fault",
    [
        Reply({"error": "overloaded"}, status=500),
        Reply({"error": "slow down"}, status=429),
        Reply(b"<html>gateway</html>", status=503),
        Reply(b"<html>fine, but no JSON</html>"),
        Reply(b"\xff\xfe"),
        Reply({"other": 1}),
        Reply(hang_up=True),
    ],
    ids=["500", "429", "503", "html", "bytes", "unusable", "hang-up"],
)
def test_passing_faults_are_tried_again(fault: Reply) -> None:
    def respond(number: int, body: Any) -> Reply:
        return fault if number < 2 else Reply({"value": 3})

    with Server(respond) as server:
        assert ask(JsonClient(server.url, backoff=0.0)) == {0: 3.0}
    assert len(server.bodies) == 3 and server.bodies == [{"row": 0}] * 3


def test_lasting_faults_are_told() -> None:
    with Server(lambda number, body: Reply({"error": "overloaded"}, status=500)) as server:
        with pytest.raises(RemoteRewardError, match=r"in 3 tries; the last gave status 500.*overl"):
            ask(JsonClient(server.url, retries=2, backoff=0.0))
        url = server.url
    assert len(server.bodies) == 3
    with pytest.raises(RemoteRewardError, match="in one try; the last gave no connection"):
        ask(JsonClient(url, retries=0))  # nobody listens any more


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_refusals_are_not_tried_again(status: int) -> None:
    reply = Reply({"error": "no such model"}, status=status, headers={"Location": "/elsewhere"})
    with Server(lambda number, body: reply) as server:
        with pytest.raises(RemoteRewardError, match=f"refused.*status {status}.*no such model"):
            ask(JsonClient(server.url, backoff=0.0))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("fault", [Reply(stall=True), Reply({"value": 1}, trickle=0.05)])
def test_a_server_that_stalls_runs_into_the_timeout(fault: Reply) -> None:
    def respond(number: int, body: Any) -> Reply:
        return fault if number == 0 else Reply({"value": 1})

    with Server(respond) as server:
        began = time.monotonic()
        assert ask(JsonClient(server.url, timeout=0.3, retries=1, backoff=0.0)) == {0: 1.0}
        assert 0.3 <= time.monotonic() - began < 3
        with pytest.raises(RemoteRewardError, match="no whole answer within 0.2 s"):
            server.respond = lambda number, body: fault
            ask(JsonClient(server.url, timeout=0.2, retries=0))


def test_waiting_grows_is_jittered_and_has_an_end() -> None:
    def elapsed(reply: Reply, **kwargs: Any) -> float:
        server.respond = lambda number, body: reply
        began = time.monotonic()
        with pytest.raises(RemoteRewardError):
            ask(JsonClient(server.url, **kwargs))
        return time.monotonic() - began

    failing = Reply({}, status=500)
    asking = Reply({}, status=429, headers={"Retry-After": "100"})
    with Server(lambda number, body: failing) as server:
        # Between 1/2 and 1 of 0.1 + 0.2 + 0.4 seconds.
        assert 0.35 <= elapsed(failing, retries=3, backoff=0.1) < 2
        assert 0.3 <= elapsed(asking, retries=1, backoff=0.0, max_wait=0.3) < 2
        assert elapsed(failing, retries=3, backoff=100.0, max_wait=0.01) < 2


def test_what_retry_after_may_say() -> None:
    assert _retry_after({}) == 0 and _retry_after({"Retry-After": "7"}) == 7
    assert _retry_after({"Retry-After": "soon"}) == 0
    assert _retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0  # is over
    assert _retry_after({"Retry-After": "Fri, 31 Dec 2999 23:59:59 GMT"}) > 3600


def test_one_failure_gives_up_the_rest_and_keeps_what_came() -> None:
    def respond(number: int, body: Any) -> Reply:
        if body["row"] == 0:
            return Reply({"value": 5})
        return Reply({"error": "no"}, status=400 if body["row"] == 1 else 500)

    answers: dict[int, float] = {}
    with Server(respond) as server:
        client = JsonClient(server.url, concurrency=2, retries=5, backoff=60.0)
        began = time.monotonic()
        with pytest.raises(RemoteRewardError, match="refused.*status 400"):
            client.post_all({row: {"row": row} for row in range(40)}, number_of, answers)
        assert time.monotonic() - began < 5  # nobody sits out a minute
    assert answers == {0: 5.0} and len(server.bodies) < 10


# -- the key -----------------------------------------------------------------------------------


def test_the_key_goes_into_the_header_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    with Server(lambda number, body: Reply({"value": 1})) as server:
        client = JsonClient(server.url, api_key_env="JUDGE_KEY", retries=0)
        assert ask(client) == {0: 1.0}
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        shown += [repr(client), str(client.__dict__), repr(pickle.dumps(client))]
        again = pickle.loads(pickle.dumps(client))
        assert ask(again) == {0: 1.0}
        long = "x" * 290 + KEY  # would be cut in the middle of the key
        for reply in (
            Reply({"error": f"wrong key {KEY}"}, status=401),
            Reply({"error": long}, status=500),
            Reply({KEY: 1}),
            Reply(f"no JSON {KEY}".encode()),
        ):
            server.respond = lambda number, body, reply=reply: reply
            with pytest.raises(RemoteRewardError) as caught:
                ask(client)
            shown.append(str(caught.value))
            cause = caught.value.__cause__
            shown.append(str(cause))
            assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
        assert "***" in shown[3]
    text = "\n".join([*shown, caplog.text])
    assert KEY not in text and KEY[:12] not in text


def test_a_key_that_no_header_may_have_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "two words\nand a line")
    with Server(lambda number, body: Reply({"value": 1})) as server:
        client = JsonClient(server.url, api_key_env="JUDGE_KEY")
        with pytest.raises(RemoteRewardError, match="JUDGE_KEY .* holds a character") as caught:
            ask(client)
        assert "words" not in str(caught.value)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match="names is not set"):
        JsonClient(server.url, api_key_env="JUDGE_KEY")
    with pytest.raises(ValueError, match="never the key itself") as wrong:
        JsonClient(server.url, api_key_env=KEY)
    assert KEY not in str(wrong.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "must begin with http"),
        ("ftp://host/", "must begin with http"),
        ("http://", "name a host"),
        ("https://user:secret@host/v1", "no user, password"),
        ("https://host/v1?key=secret", "no user, password, query"),
    ],
)
def test_addresses(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        JsonClient(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "kwargs",
    [{"timeout": 0}, {"timeout": float("inf")}, {"retries": -1}, {"backoff": -1.0},
     {"max_wait": float("nan")}, {"concurrency": 0}],
)  # fmt: skip
def test_numbers_out_of_range(kwargs: dict[str, Any]) -> None:
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        JsonClient("http://host", **kwargs)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(lambda number, body: Reply({"value": 4})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert ask(JsonClient("http://rewards.invalid/score", retries=0)) == {0: 4.0}
    assert proxy.paths == ["http://rewards.invalid/score"]
