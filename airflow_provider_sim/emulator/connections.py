"""The callers' connections: they can be cut, and it is seen when a caller hangs up."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER's value that makes closing a reset."""


class Connection:
    """One caller's connection.

    :ivar lost: set once it is closed, by whichever side.
    """

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self.lost = asyncio.Event()
        self._transport = transport
        if transport is None:
            self.lost.set()

    def cut(self, *, reset: bool = False) -> None:
        """Close it at once, without what isn't sent yet.

        :param reset: by a reset instead of an orderly end.
        """
        if self._transport is None:
            return
        if reset:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def read_on(self) -> None:
        """Hear the caller hang up; behind a large body uvicorn has stopped reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close it once all that was written is sent."""
        if self._transport is not None:
            self._transport.close()


class Connections:
    """All connections of one server, by the caller's address and port.

    uvicorn has no way to end a connection without an answer, and tells an application of a hang-up only when it asks
    for more of the body. Both are the transport's business, and a protocol class may be given to uvicorn.
    """

    def __init__(self) -> None:
        self._open: dict[Any, Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def of(self, scope: Scope) -> Connection:
        """The connection that a request came by; a lost one, if its caller has hung up already."""
        return self._open.get(scope["client"]) or Connection(None)

    def are_lost(self, scope: Scope) -> bool:
        """Whether the request's caller has hung up."""
        return scope["client"] not in self._open

    def cut_all(self) -> None:
        """Cut every connection; may be called from any thread."""
        if self._loop is None:
            return
        with suppress(RuntimeError):  # the loop has ended, and its connections with it
            for connection in list(self._open.values()):
                self._loop.call_soon_threadsafe(connection.cut)

    def protocol(self) -> type[asyncio.Protocol]:
        """The protocol that uvicorn would choose, with its connections kept here."""
        here = self

        class KeptProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
            def connection_made(self, transport: asyncio.Transport) -> None:
                here._loop = asyncio.get_running_loop()
                self._caller = transport.get_extra_info("peername")
                self._kept = Connection(transport)
                if self._caller is not None:  # else it is lost before it was begun
                    here._open[self._caller] = self._kept
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                if here._open.get(self._caller) is self._kept:
                    del here._open[self._caller]
                self._kept.lost.set()

        return KeptProtocol
