"""Both clients behind one face: every test that asks for ``connect`` runs once for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_sim.client.async_client import AsyncSimClient
from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.client.sync_client import SimClient

KEY = "sk-sim-a-key-that-nobody-may-see"


class Face:
    """One client whose methods are called as if they blocked.

    :param meanwhile: what happens instead of a sleep, by its seconds.
    :ivar sleeps: seconds that were to be slept between attempts; none of them are.
    """

    def __init__(
        self, kind: str, url: str, *, meanwhile: Callable[[float], object] = lambda _: None, **settings: Any
    ) -> None:
        self.sleeps: list[float] = []
        self.kind = kind
        self._meanwhile = meanwhile
        self._runner = asyncio.Runner() if kind == "asyncio" else None
        self.client: Any = (AsyncSimClient if self._runner else SimClient)(settings.pop("key", KEY), url, **settings)
        self.client._sleep = self._sleep_async if self._runner else self._sleep

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self._meanwhile(seconds)

    async def _sleep_async(self, seconds: float) -> None:
        self._sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._runner is None or not asyncio.iscoroutinefunction(method):
                return method(*args, **kwargs)
            return self._runner.run(method(*args, **kwargs))

        return call if callable(method) else method

    def events(self, stream: Any) -> Iterator[Any]:
        """A stream's events, one by one."""
        if self._runner is None:
            with stream:
                yield from stream
            return
        yield from self._each(aiter(stream), stream.close)

    def pieces(self, url: str) -> Iterator[bytes]:
        """A file's bytes, as they come."""
        yield from self._pieces(self.client.download_file(url))

    def _pieces(self, pieces: Any) -> Iterator[bytes]:
        if self._runner is None:
            yield from pieces
            return
        yield from self._each(pieces, pieces.aclose)

    def _each(self, iterator: Any, close: Callable[[], Any]) -> Iterator[Any]:
        assert self._runner is not None
        try:
            while True:
                try:
                    yield self._runner.run(_next(iterator))
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(close())

    def with_retry(self, retry: RetryPolicy) -> Face:
        """This face with another retry policy."""
        other = Face.__new__(Face)
        vars(other).update(vars(self) | {"client": self.client.with_retry(retry)})
        return other

    def close(self) -> None:
        """Close the client, and its event loop."""
        if self._runner is None:
            self.client.close()
        else:
            self._runner.run(self.client.close())
            self._runner.close()


async def _next(iterator: Any) -> Any:
    return await anext(iterator)


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Face]]:
    """Make clients of the kind whose turn it is."""
    faces: list[Face] = []

    def make(url: str, **settings: Any) -> Face:
        faces.append(Face(request.param, url, **settings))
        return faces[-1]

    yield make
    for face in faces:
        face.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the largest matrices of the async client on the legacy API as slow: both clients use the same flows."""
    for item in items:
        if item.path.name in ("test_retry_matrix.py", "test_start.py") and "[asyncio-" in item.name:
            parameters = item.callspec.params.values()  # type: ignore[attr-defined]
            if "legacy" in parameters or "-legacy" in item.name:
                item.add_marker(pytest.mark.slow)
