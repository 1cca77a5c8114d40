"""JSON over HTTP for reward models that live on a server: timeouts, retries, many at once.

One request is tried up to `1 + retries` times. Tried again are: no connection, no whole answer
within `timeout` seconds, the statuses 408, 425, 429 and 5xx, and an answer that its reader cannot
use. Before try k + 1 the client waits

    max(Retry-After, u * backoff * 2^(k - 1)), but at most `max_wait` seconds,  u ~ Uniform(1/2, 1)

where Retry-After is what the server asked for, if it did, and u keeps many clients from coming
back at once. Any other status fails at once: it would be the same again.

Requests run in threads of their own, from which the caller takes the answers. Whatever takes
control away from the caller, a Ctrl-C included, takes effect at once: the threads finish the try
that they are in, unheard, and keep no interpreter from ending.

A key is read from an environment variable when a request is sent. It stands in no attribute, no
message and no pickle; where a server repeats it in an error, it is struck out.
"""

from __future__ import annotations

import json
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

__all__ = ["JsonClient", "RemoteRewardError", "UnusableAnswer"]

T = TypeVar("T")

_PASSING = frozenset({408, 425, 429})  # and 500 to 599: the same request may succeed later
_MOST_BYTES = 2**26  # of one answer
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_GLANCE = 0.2  # seconds
_QUOTED = 300  # characters of a server's answer in a message


class RemoteRewardError(RuntimeError):
    """A server gave no usable answer, however often it was asked."""


class UnusableAnswer(ValueError):
    """What a reader of answers raises to have the request repeated."""


class JsonClient:
    """Posts JSON to one address and reads JSON from it.

    Args:
        url: `http://` or `https://` address; user, password and query belong in no address, as
            addresses are logged.
        api_key_env: the NAME of the environment variable with the key, sent as
            `Authorization: Bearer <key>`; None to send none.
        timeout: seconds for one try, from connecting to the last byte.
        retries: further tries after the first.
        backoff: seconds, see above.
        max_wait: most seconds between two tries.
        concurrency: requests under way at once.

    Raises:
        ImportError: urllib3 is missing.
        ValueError: an argument is not accepted.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        backoff: float = 1.0,
        max_wait: float = 60.0,
        concurrency: int = 8,
    ) -> None:
        _check_url(url)
        # Neither message quotes the argument: whoever mistook it has put the key itself there.
        if api_key_env is not None and not _VARIABLE.fullmatch(api_key_env):
            raise ValueError(
                "api_key_env must be the name of an environment variable, in capitals, such as "
                "'OPENAI_API_KEY'; never the key itself"
            )
        if api_key_env is not None and not os.environ.get(api_key_env, "").strip():
            raise ValueError("the environment variable that api_key_env names is not set")
        for name, number in {"timeout": timeout, "concurrency": concurrency}.items():
            if not 0 < number < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {number!r}")
        for name, number in {"retries": retries, "backoff": backoff, "max_wait": max_wait}.items():
            if not 0 <= number < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {number!r}")
        _urllib3()
        self.url, self.api_key_env = url, api_key_env
        self.timeout, self.retries = float(timeout), int(retries)
        self.backoff, self.max_wait = float(backoff), float(max_wait)
        self.concurrency = int(concurrency)
        self._pool: Any = None
        self._process = 0

    def post_all(
        self,
        bodies: Mapping[int, Any],
        read: Callable[[Any, int], T],
        answers: dict[int, T],
    ) -> None:
        """Send every body and put what `read` makes of each answer into `answers`.

        Args:
            bodies: what to send, each under a number.
            read: makes the result of a decoded answer and the number of its request, or raises
                `UnusableAnswer`.
            answers: filled under the same numbers, as the answers arrive: also those that came
                before another request failed for good.

        Raises:
            RemoteRewardError: a request failed for good; the others are given up.
            BaseException: whatever else interrupts the caller, with the same effect.
        """
        stop = threading.Event()

        def ask(number: int, body: Any) -> T:
            data = json.dumps(body).encode()
            return self._post(data, lambda answer: read(answer, number), stop)

        self._connections()  # made here once, not by every thread
        _in_threads(ask, bodies, answers, self.concurrency, stop)

    def _post(self, body: bytes, read: Callable[[Any], T], stop: threading.Event) -> T:
        for attempt in range(1 + self.retries):
            fault, asked = "", 0.0
            try:
                status, headers, data = self._try(body)
            except _NoAnswer as error:
                fault = str(error)
            else:
                if 200 <= status < 300:
                    try:
                        return read(_decode(data))
                    except UnusableAnswer as error:
                        fault = f"an answer that cannot be used: {error}"
                else:
                    fault = f"status {status}: {_excerpt(data)}"
                    if status not in _PASSING and not 500 <= status < 600:
                        raise RemoteRewardError(f"{self.url} refused the request: {fault}")
                    asked = _retry_after(headers)
            pause = random.uniform(0.5, 1.0) * self.backoff * 2.0**attempt
            if attempt < self.retries and stop.wait(min(max(asked, pause), self.max_wait)):
                raise RemoteRewardError(f"{self.url}: given up, as another request has failed")
        tries = "one try" if not self.retries else f"{1 + self.retries} tries"
        raise RemoteRewardError(f"{self.url}: no usable answer in {tries}; the last gave {fault}")

    def _try(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of one try; `_NoAnswer` if it does not come through."""
        urllib3 = _urllib3()
        deadline = time.monotonic() + self.timeout
        late = f"no whole answer within {self.timeout:g} s"
        response: Any = None
        try:
            response = self._connections().request(
                "POST", self.url, body=body, headers=self._headers(), retries=False,
                redirect=False, timeout=urllib3.Timeout(total=self.timeout), preload_content=False,
            )  # fmt: skip
            data = bytearray()
            # Read piece by piece: a server that sends a byte now and then beats every timeout
            # that only counts the pauses.
            while piece := response.read1(2**16):
                data += piece
                if time.monotonic() > deadline:
                    raise _NoAnswer(late)
                if len(data) > _MOST_BYTES:
                    raise _NoAnswer(f"more than {_MOST_BYTES} bytes")
        except urllib3.exceptions.NewConnectionError as error:  # to urllib3 one of the timeouts
            raise _NoAnswer(f"no connection: {error}") from None
        except urllib3.exceptions.TimeoutError:
            raise _NoAnswer(late) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _NoAnswer(f"{type(error).__name__}: {error}") from None
        except BaseException:
            if response is not None:
                response.close()
            raise
        response.release_conn()
        return int(response.status), response.headers, self._without_key(bytes(data))

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {self._key()}"
        return headers

    def _key(self) -> str:
        """Return the key; checked here, as messages about a bad header would quote it."""
        key = os.environ.get(self.api_key_env or "", "").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise RemoteRewardError(
                f"{self.api_key_env} is not set, or holds a character that no header may have"
            )
        return key

    def _without_key(self, data: bytes) -> bytes:
        """Return an answer with the key struck out, before any of it can reach a message."""
        key = os.environ.get(self.api_key_env or "", "").strip()
        return data.replace(key.encode(), b"***") if key else data

    def _connections(self) -> Any:
        """Return the pool of connections of this process; a forked one must not share it."""
        if self._pool is None or self._process != os.getpid():
            from urllib.request import getproxies, proxy_bypass  # takes long to import

            urllib3 = _urllib3()
            address = urlsplit(self.url)
            proxy = getproxies().get(address.scheme)
            if proxy and not proxy_bypass(address.hostname or ""):
                self._pool = urllib3.ProxyManager(proxy, maxsize=self.concurrency)
            else:
                self._pool = urllib3.PoolManager(maxsize=self.concurrency)
            self._process = os.getpid()
        return self._pool

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def __repr__(self) -> str:
        return f"JsonClient({self.url!r}, api_key_env={self.api_key_env!r})"


def _in_threads(
    ask: Callable[[int, Any], T],
    bodies: Mapping[int, Any],
    answers: dict[int, T],
    count: int,
    stop: threading.Event,
) -> None:
    """Put what `ask` makes of each body into `answers`, `count` at once, until one of them fails.

    However this ends, `stop` is set and every answer that has arrived stands in `answers`.
    """
    waiting: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for item in bodies.items():
        waiting.put(item)
    arrived: dict[int, T] = {}
    told: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        while not stop.is_set():
            try:
                number, body = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                arrived[number] = ask(number, body)
                told.put(None)
            except BaseException as error:  # whose place is the caller's thread
                told.put(error)

    try:
        for _ in range(min(count, len(bodies))):
            # Daemons, unlike the threads of an executor, are not waited for at exit.
            threading.Thread(target=work, name="text_envs request", daemon=True).start()
        for _ in range(len(bodies)):
            error = _next_of(told)
            if error is not None:
                raise error
    finally:
        stop.set()
        answers.update(arrived.copy())


def _next_of(told: queue.SimpleQueue[BaseException | None]) -> BaseException | None:
    """Return what comes next; in short waits, as not every system interrupts a long one."""
    while True:
        try:
            return told.get(timeout=_GLANCE)
        except queue.Empty:
            continue


class _NoAnswer(Exception):
    """One try that did not come through."""


def _urllib3() -> Any:
    try:
        import urllib3
    except ImportError as error:
        raise ImportError(
            "rewards from a server need urllib3: pip install 'text_envs[judge]'"
        ) from error
    return urllib3


def _check_url(url: str) -> None:
    if any(mark in url for mark in "@?#"):
        raise ValueError("url must hold no user, password, query or fragment: addresses are logged")
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"url must begin with http:// or https:// and name a host, got {url!r}")


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:  # also bytes that are no text
        raise UnusableAnswer(f"not JSON: {_excerpt(data)}") from error


def _excerpt(data: bytes) -> str:
    text = " ".join(data.decode(errors="replace").split())
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return for how many seconds the server asked to be left alone; 0 if it did not say."""
    value = headers.get("Retry-After")
    if value is None:
        return 0.0
    urllib3 = _urllib3()
    try:
        return float(urllib3.Retry().parse_retry_after(value))
    except (urllib3.exceptions.HTTPError, ValueError, OverflowError):
        return 0.0
