"""The callers' TCP connections, which faults can cut, and whose loss is noticed at once."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""Value of SO_LINGER that makes a close a reset."""


class Connection:
    """One caller's connection; ``lost`` is set when either side has closed it."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self.lost = asyncio.Event()
        self._transport = transport
        if transport is None:
            self.lost.set()

    def cut(self, *, reset: bool = False, flush: bool = False) -> None:
        """Close it, with a TCP reset if ``reset``; pending data is discarded unless ``flush``."""
        if self._transport is None:
            return
        if flush:
            self._transport.close()
            return
        if reset:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def resume_reading(self) -> None:
        """Notice when the caller disconnects; uvicorn stops reading after a large body."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


class Connections:
    """All connections of one server, by the caller's address and port.

    uvicorn cannot close a connection without a response, and reports a disconnect only to an application that reads
    more of the body. Its protocol class can be replaced, though, and that class has the transport.
    """

    def __init__(self) -> None:
        self._open: dict[Any, Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def of(self, scope: Scope) -> Connection:
        """Return the connection of a request; a lost one if its caller has disconnected."""
        return self._open.get(scope["client"]) or Connection(None)

    def cut_all(self) -> None:
        """Cut every connection; thread-safe."""
        if self._loop is None:
            return
        with suppress(RuntimeError):  # the event loop is closed, and so are its connections
            for connection in list(self._open.values()):
                self._loop.call_soon_threadsafe(connection.cut)

    def protocol(self) -> type[asyncio.Protocol]:
        """Return uvicorn's default protocol class, extended to register its connections."""
        registry = self

        class RegisteredProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
            def connection_made(self, transport: asyncio.Transport) -> None:
                registry._loop = asyncio.get_running_loop()
                self._caller = transport.get_extra_info("peername")
                self._connection = Connection(transport)
                if self._caller is not None:  # otherwise it was lost before it was accepted
                    registry._open[self._caller] = self._connection
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                if registry._open.get(self._caller) is self._connection:
                    del registry._open[self._caller]
                self._connection.lost.set()

        return RegisteredProtocol
