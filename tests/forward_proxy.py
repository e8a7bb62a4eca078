"""A forward proxy over real sockets: ``CONNECT`` for https, absolute URLs for http."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

TIMEOUT = 10.0
"""Seconds."""


@dataclass
class ForwardProxy:
    """A proxy that forwards to 127.0.0.1, whatever the host's name.

    :ivar requests: the request lines that it has received.
    :ivar credentials: their ``Proxy-Authorization``.
    """

    url: str
    requests: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)

    def serve(self, client: socket.socket) -> None:
        """Forward one connection."""
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(65536)
            if not received:
                return
            head += received
        head, _, rest = head.partition(b"\r\n\r\n")
        line, *headers = head.decode().split("\r\n")
        self.requests.append(line)
        self.credentials += [text for text in headers if text.lower().startswith("proxy-authorization:")]
        method, target, version = line.split(" ")
        # httpx puts no brackets around the IPv6 address of an absolute URL.
        authority, _, path = target.removeprefix("http://").partition("/")
        port = int(authority.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                kept = [text for text in headers if not text.lower().startswith(("connection:", "proxy-"))]
                lines = [f"{method} /{path} {version}", *kept, "Connection: close"]
                server.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + rest)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(TIMEOUT)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def forward_proxy(tls: ssl.SSLContext | None = None) -> Iterator[ForwardProxy]:
    """Run a proxy for a ``with`` block; with ``tls``, an https one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = ForwardProxy(f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}")

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                connection.settimeout(TIMEOUT)
                if tls is None:
                    proxy.serve(connection)
                    return
                with tls.wrap_socket(connection, server_side=True) as secure:
                    proxy.serve(secure)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
