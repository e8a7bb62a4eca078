"""Fixtures of all tests: an isolated environment and an emulator."""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_sim.emulator import SimEmulator


pytest_plugins = ["pytester", "airflow_provider_sim.emulator.pytest_plugin"]

PROCESSES_PER_CORE = 3
"""Most of the time, tests wait for sockets. Each process spends seconds of CPU time on importing Airflow."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes of ``-n auto``."""
    return PROCESSES_PER_CORE * (os.cpu_count() or 1)


def pytest_sessionstart() -> None:
    """Import the tests without garbage collection: Airflow alone creates half a million objects."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Exclude the imported objects from garbage collection."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove keys, servers and proxies from the environment, cached servers, and log handlers."""
    from airflow_provider_sim.client.server_facts import facts_about

    for name in list(os.environ):
        if name.startswith(("SIM_API", "SIM_BASE")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    facts_about.cache_clear()
    log = logging.getLogger("airflow_provider_sim")  # the command line sends it to stderr
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture
def emulator(sim_emulator: SimEmulator) -> SimEmulator:
    """The fixture ``sim_emulator`` by a shorter name."""
    return sim_emulator


class Stats:
    """Airflow's ``Stats``, which keeps what it gets."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.timers: dict[str, list[float]] = {}

    def incr(self, name: str, count: int = 1, *, tags: object = None) -> None:
        self.counters[name] += count

    def timing(self, name: str, dt: timedelta) -> None:
        self.timers.setdefault(name, []).append(dt.total_seconds())


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> Stats:
    """Metrics of this test."""
    stats = Stats()
    monkeypatch.setattr("airflow_provider_sim._compat.airflow_stats", lambda: stats)
    return stats
