"""pytest plugin with the fixture ``sim_emulator``; ``docs/guides/test-dags.md`` describes it.

Add it to your ``conftest.py``: ``pytest_plugins = ["airflow_provider_sim.emulator.pytest_plugin"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from airflow_provider_sim.emulator import SimEmulator


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "sim_emulator(*, conn_id='sim_default', **settings): ID of the connection to the emulator, and the arguments of"
        " SimEmulator: profile, plan, api_key",
    )


@pytest.fixture(scope="session")
def _sim_emulators() -> Iterator[Callable[..., SimEmulator]]:
    """Emulators by their settings, started on first use, because a start takes longer than most tests."""
    started: dict[str, SimEmulator] = {}

    def with_settings(**settings: object) -> SimEmulator:
        name = repr(sorted(settings.items()))
        if name not in started:
            started[name] = SimEmulator(**settings).start()  # type: ignore[arg-type]
        return started[name]

    yield with_settings
    for sim in started.values():
        sim.stop()


@pytest.fixture
def sim_emulator(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _sim_emulators: Callable[..., SimEmulator]
) -> Iterator[SimEmulator]:
    """A Sim server in its initial state, and the Airflow connection ``sim_default`` to it.

    The marker ``sim_emulator`` sets the connection's ID and the server's version, plan, key and workflows.
    """
    marker = request.node.get_closest_marker("sim_emulator")
    settings = dict(marker.kwargs) if marker else {}
    conn_id = settings.pop("conn_id", "sim_default")
    sim = _sim_emulators(**settings)
    sim.reset()
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", sim.connection())
    yield sim
    sim.reset()  # releases held requests
