"""The emulator as a pytest fixture: ``sim_emulator``; ``docs/testing.md`` shows it.

Every pytest of an environment with this package imports this module, so the emulator is imported by who uses it only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow_provider_sim.emulator import SimEmulator

DEFAULT_CONN_ID = "sim_default"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "sim_emulator(*, conn_id='sim_default', **settings): the Airflow connection that leads to the test's emulator,"
        " and the settings of SimEmulator: profile, plan, api_key, workflows",
    )


@pytest.fixture(scope="session")
def _sim_emulators() -> Iterator[Callable[..., SimEmulator]]:
    """Emulators by their settings, each started when it is first needed: that takes longer than most tests."""
    from airflow_provider_sim.emulator import SimEmulator

    started: dict[str, SimEmulator] = {}

    def with_settings(**settings: Any) -> SimEmulator:
        name = repr(sorted(settings.items()))
        if name not in started:
            started[name] = SimEmulator(**settings).start()
        return started[name]

    yield with_settings
    for sim in started.values():
        sim.stop()


@pytest.fixture
def sim_emulator(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _sim_emulators: Callable[..., SimEmulator]
) -> Iterator[SimEmulator]:
    """A Sim server as new, and the Airflow connection ``sim_default`` that leads to it.

    The marker ``sim_emulator`` chooses another connection's id, and the server's version, plan, key and workflows.
    """
    marker = request.node.get_closest_marker("sim_emulator")
    settings = dict(marker.kwargs) if marker else {}
    conn_id = settings.pop("conn_id", DEFAULT_CONN_ID)
    sim = _sim_emulators(**settings)
    sim.reset()
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", sim.connection())
    yield sim
    sim.reset()  # nothing that a test has held is left waiting
