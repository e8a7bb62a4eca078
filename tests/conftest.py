"""What every test has: an environment of its own, and an emulator for who asks for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_sim.emulator import SimEmulator


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "emulator(**settings): the settings of the test's emulator, as SimEmulator's")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, server or proxy of whoever runs the tests, and nothing known of any server."""
    from airflow_provider_sim.client.conversations import forget_servers

    for name in list(os.environ):
        if name.startswith(("SIM_API", "SIM_BASE")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    forget_servers()


@pytest.fixture(scope="session")
def _emulators() -> Iterator[dict[str, SimEmulator]]:
    """The emulators that were needed so far, by their settings; starting and stopping them takes longer than a test."""
    started: dict[str, SimEmulator] = {}
    yield started
    for sim in started.values():
        sim.stop()


@pytest.fixture
def emulator(request: pytest.FixtureRequest, _emulators: dict[str, SimEmulator]) -> SimEmulator:
    """A Sim server as new, by the marker ``emulator`` one of another version or plan."""
    from airflow_provider_sim.emulator import SimEmulator

    marker = request.node.get_closest_marker("emulator")
    settings = marker.kwargs if marker else {}
    name = repr(sorted(settings.items()))
    if name not in _emulators:
        _emulators[name] = SimEmulator(**settings).start()
    _emulators[name].reset()
    return _emulators[name]
