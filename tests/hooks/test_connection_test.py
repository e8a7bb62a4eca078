"""The Test button: each kind of failure has its own message."""

from __future__ import annotations

import json

import pytest

from airflow_provider_sim.client.server_facts import facts_about
from airflow_provider_sim.emulator.profiles import PROFILES
from airflow_provider_sim.hooks.sim import SimHook
from scripts.bad_connections import bad_connections
from tests.canned_server import Answer, canned, closed_port

KEY = "sk-sim-connection-test-key"


@pytest.fixture
def test(monkeypatch):
    """Press the button for a connection."""

    def press(host: str, password: str = KEY, port: int | None = None, **extra: object) -> tuple[bool, str]:
        connection = {"conn_type": "sim", "host": host, "password": password, "port": port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", json.dumps(connection))
        fine, words = SimHook().test_connection()
        assert not password or password not in words
        return fine, words

    return press


def test_successful_test_names_server_api_and_workspace(test, emulator):
    fine, words = test(emulator.url, emulator.api_key)
    assert (fine, words) == (True, f"Connected to {emulator.url} (v2 API, workspaces: Emulated, free plan).")
    assert emulator.runs == [], "nothing was started"


def test_failed_test_names_the_field_to_change(test, emulator):
    with bad_connections(emulator) as cases:
        for case in cases:
            facts_about.cache_clear()
            fine, words = test(case.host, case.password, case.port, api_version=case.api_version)
            assert (fine, case.advice in words) == (False, True), (case.label, words)


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(name, marks=pytest.mark.sim_emulator(profile=name))
        for name, found in PROFILES.items()
        if not found.v2_on
    ],
)
def test_server_without_v2_passes_the_test(test, emulator, profile):
    fine, words = test(emulator.url, emulator.api_key)
    assert fine
    assert "legacy API; v2 is switched off or missing" in words


@pytest.mark.parametrize("profile", [pytest.param(n, marks=pytest.mark.sim_emulator(profile=n)) for n in PROFILES])
def test_wrong_key_fails_the_test(test, emulator, profile):
    fine, words = test(emulator.url)
    assert not fine
    assert "Put a current key" in words


@pytest.mark.sim_emulator(profile="v0.8-legacy")
def test_v2_connection_fails_if_v2_is_off(test, emulator):
    fine, words = test(emulator.url, emulator.api_key, api_version="v2")
    assert not fine
    assert "v2 API is switched off" in words
    assert "V2_API=true" in words


def test_unreachable_server_fails_the_test(test):
    fine, words = test(f"http://127.0.0.1:{closed_port()}")
    assert not fine
    assert "can't be reached" in words


@pytest.mark.parametrize("status", [200, 404])
def test_other_web_server_fails_the_test(test, status):
    with canned(Answer(status, b"<!DOCTYPE html><title>Welcome</title>", {"content-type": "text/html"})) as server:
        fine, words = test(server.url)
    assert not fine
    assert words.endswith("The base URL is the URL of Sim's start page, such as https://www.sim.ai, without /api.")


def test_redirect_names_the_new_base_url(test):
    with canned(Answer(301, b"", {"location": "https://www.sim.ai/api/v2/workspaces"})) as server:
        fine, words = test(server.url)
    assert not fine
    assert "Set the connection's base URL (host) to https://www.sim.ai;" in words


def test_http_503_fails_without_retries(test):
    with canned(Answer(503, b"<html>Service Unavailable</html>", {"content-type": "text/html"})) as server:
        fine, words = test(server.url)
    assert not fine
    assert "Sim may be down" in words
    assert len(server.requests) == 1, "nobody waits for repetitions at a button"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(silent=True), id="hangs up"),
        pytest.param(Answer(400, b"<title>400 The plain HTTP request was sent to HTTPS port</title>"), id="says so"),
    ],
)
def test_http_to_an_https_port_suggests_https(test, answer):
    with canned(answer) as server:
        fine, words = test(server.url)
    assert not fine
    assert words.endswith("If it uses https, start the base URL with https://.")


def test_missing_key_fails_the_test(test):
    fine, words = test("http://127.0.0.1:1", password="")
    assert not fine
    assert "no API key" in words
