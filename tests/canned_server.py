"""An HTTP server on a real socket with canned responses, including malformed ones."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """A canned response.

    :param body: bytes are sent as they are, other values as JSON.
    :param cut: number of body bytes before the connection is reset.
    :param delay: seconds before the response.
    :param silent: close the connection without a response.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0.0
    silent: bool = False

    def raw(self) -> tuple[bytes, bytes]:
        """Return head and body as bytes."""
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        kind = {} if isinstance(self.body, bytes) else {"content-type": "application/json"}
        headers = {"content-length": str(len(body)), "connection": "close", **kind, **self.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} Canned\r\n{head}\r\n".encode(), body


@dataclass(frozen=True)
class Got:
    """A received request; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)

    @property
    def run_id(self) -> str | None:
        """The caller's run ID."""
        return self.headers.get("x-run-id") or self.headers.get("x-execution-id")


class CannedServer:
    """Returns its responses one after the other, and repeats the last one.

    :param answers: responses; a pair of a part of the path and a response applies to these paths only.
    """

    def __init__(self, *answers: Answer | tuple[str, Answer], tls: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers)
        self.requests: list[Got] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        """Start the server."""
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the server."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            got = self._read(connection)
            self.requests.append(got)
            answer = self._next(got.path)
            time.sleep(answer.delay)
            head, body = answer.raw()
            if not answer.silent:
                connection.sendall(head + body[: answer.cut])
            if answer.cut is not None or answer.silent:  # reset, so that the reader can't mistake it for the end
                time.sleep(0.05 if answer.cut else 0.0)  # what was sent and isn't read yet would be lost
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def _next(self, path: str) -> Answer:
        for number, candidate in enumerate(self.answers):
            part, answer = candidate if isinstance(candidate, tuple) else ("", candidate)
            if part in path:
                rest = [
                    other for other in self.answers[number + 1 :] if not isinstance(other, tuple) or other[0] == part
                ]
                if rest:
                    del self.answers[number]
                return answer
        raise AssertionError(f"no answer for {path}")

    @staticmethod
    def _read(connection: socket.socket) -> Got:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536) or _nothing()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            body += connection.recv(65536) or _nothing()
        method, path, _ = first.split(" ")
        return Got(method, path, headers, body)


def _nothing() -> bytes:
    raise ValueError("the client hung up")


def closed_port() -> int:
    """Return a port that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def canned(*answers: Answer | tuple[str, Answer]) -> Iterator[CannedServer]:
    """Run a server for a ``with`` block."""
    with CannedServer(*answers) as server:
        yield server


@contextlib.contextmanager
def held(first: bytes, rest: bytes = b"") -> Iterator[tuple[str, threading.Event]]:
    """Send one client the first bytes of a response, and the rest when the event is set; yield URL and event."""
    released = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(first)
            released.wait(20)
            connection.sendall(rest)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", released
        finally:
            released.set()
            thread.join(20)
