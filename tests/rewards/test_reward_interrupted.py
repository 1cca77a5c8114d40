"""A server that hangs gives control back at once, and what has arrived is not asked for again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from reward_batches import batch
from reward_server import Reply, Server, mark

from text_envs.rewards import Cache, resolve

TESTS = Path(__file__).parent.parent
TEXTS = ["good film", "bad film", "a dog runs", "a cat"]


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Any:
    """Python leaves SIGINT ignored where it was started so, as jobs in the background are."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Hanging:
    """Answers the first requests and stalls the others until it is `free`."""

    def __init__(self, answered: int) -> None:
        self.answered, self.free = answered, False
        self.held = threading.Event()

    def __call__(self, number: int, body: Any) -> Reply:
        if not self.free and number >= self.answered:
            self.held.set()
            return Reply(stall=True)
        if "messages" in body:
            return mark("Score: 3")
        return Reply({"rewards": [3.0] * len(body["episodes"])})


def make(name: str, url: str) -> Any:
    if name == "judge":
        return resolve(name, model="m", base_url=url, template="{text}", concurrency=2)
    return resolve(name, url=url, batch_size=1, concurrency=2)


@pytest.mark.parametrize("name", ["judge", "remote"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_ctrl_c_takes_effect_at_once_and_keeps_what_came(name: str, wrapped: bool) -> None:
    respond = Hanging(answered=2)
    with Server(respond) as server:
        model = make(name, server.url)
        scorer = Cache(model) if wrapped else model
        pressed: list[float] = []

        def press() -> None:
            assert respond.held.wait(10)
            time.sleep(0.2)  # by now the first answers are there and the rest hangs
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        finger = threading.Thread(target=press)
        finger.start()
        with pytest.raises(KeyboardInterrupt):
            scorer(batch(TEXTS))
        assert time.monotonic() - pressed[0] < 1
        finger.join()
        respond.free = True
        before = len(server.bodies)
        again = scorer(batch(TEXTS))
        assert list(getattr(again, "values", again)) == [3.0] * 4
        assert len(server.bodies) - before == 2  # the two that came are not asked for again
        assert not [
            t for t in threading.enumerate() if t.name.startswith("text_envs") and not t.daemon
        ]


PROGRAM = """
    import sys, time
    sys.path.insert(0, {tests!r})
    from reward_batches import batch
    from text_envs.rewards import resolve
    model = resolve({name!r}, **{kwargs!r})
    print("asking", flush=True)
    try:
        model(batch({texts!r}))
    except {caught} as error:
        print("back", len(model._kept), flush=True)
"""


@pytest.mark.parametrize("name", ["judge", "remote"])
@pytest.mark.parametrize(
    ("number", "caught"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SystemExit")]
)
def test_a_program_interrupted_from_outside_ends(name: str, number: int, caught: str) -> None:
    respond = Hanging(answered=1)
    with Server(respond) as server:
        kwargs: dict[str, Any] = {"concurrency": 3, "timeout": 600.0}
        kwargs |= {"url": server.url, "batch_size": 1} if name == "remote" else {
            "model": "m", "base_url": server.url,
        }  # fmt: skip
        program = textwrap.dedent(PROGRAM).format(
            tests=str(TESTS), name=name, kwargs=kwargs, texts=TEXTS, caught=caught
        )
        # Set in the program itself: as above; and any exception may come out of a handler.
        handler = {
            signal.SIGINT: "signal.default_int_handler", signal.SIGTERM: "lambda *_: sys.exit(3)",
        }[signal.Signals(number)]  # fmt: skip
        program = f"import signal, sys\nsignal.signal({int(number)}, {handler})\n" + program
        running = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        )  # fmt: skip
        assert respond.held.wait(60)
        time.sleep(0.3)
        began = time.monotonic()
        running.send_signal(number)
        out, err = running.communicate(timeout=10)
        assert time.monotonic() - began < 2  # the interpreter's own end is in it
        assert out.split() == ["asking", "back", "1"] and running.returncode == 0, err


def test_a_failure_does_not_wait_for_requests_that_hang() -> None:
    def respond(number: int, body: Any) -> Reply:
        return Reply({}, status=400) if number == 1 else Reply(stall=True)

    with Server(respond) as server:
        model = make("judge", server.url)
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="refused"):
            model(batch(TEXTS))
        assert time.monotonic() - began < 1
