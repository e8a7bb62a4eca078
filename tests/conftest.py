"""Fixtures of all tests: an isolated environment, and the emulator of the package's pytest plugin."""

from __future__ import annotations

import gc
import logging
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_sim.emulator import SimEmulator


pytest_plugins = ["pytester", "airflow_provider_sim.emulator.pytest_plugin"]

PROCESSES_PER_CORE = 3
"""Tests wait for sockets as long as they reckon."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes ``-n auto`` means."""
    return PROCESSES_PER_CORE * (os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is imported: half a million objects, for Airflow alone."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, server or proxy of whoever runs the tests, no servers that earlier tests knew, and a log as at first."""
    from airflow_provider_sim.client.flows import forget_servers

    for name in list(os.environ):
        if name.startswith(("SIM_API", "SIM_BASE")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    forget_servers()
    log = logging.getLogger("airflow_provider_sim")  # the command line sends it to stderr
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture
def emulator(sim_emulator: SimEmulator) -> SimEmulator:
    """The fixture that users have, under the name that it has in this repository's tests."""
    return sim_emulator
