"""A real HTTP server on this machine that answers, fails, stalls and talks nonsense as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Reply:
    """What to do with one request."""

    body: Any = None  # JSON, or bytes as they are
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    stall: bool = False  # say nothing until the server closes
    trickle: float = 0.0  # seconds between two bytes, without an end
    hang_up: bool = False  # close the connection without a word


def mark(text: str) -> Reply:
    """Return the answer of an OpenAI-compatible server that says `text`."""
    return Reply({"choices": [{"message": {"role": "assistant", "content": text}}]})


class Server:
    """`with Server(respond) as server`: `respond(number, body)` decides on each request."""

    def __init__(self, respond: Callable[[int, Any], Reply]) -> None:
        self.respond = respond
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
        reply = self.respond(number, body)
        try:
            self._send(handler, reply)
        except OSError:  # the client has gone, as it should
            handler.close_connection = True

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.stall:
            self.closing.wait(10)
        if reply.stall or reply.hang_up:
            handler.close_connection = True
            return
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(10**6 if reply.trickle else len(data)))
        handler.end_headers()
        while reply.trickle and not self.closing.wait(reply.trickle):
            handler.wfile.write(b" ")
            handler.wfile.flush()
        if reply.trickle:
            handler.close_connection = True
            return
        handler.wfile.write(data)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
