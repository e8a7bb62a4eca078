"""An Airflow connection becomes a client's settings."""

from __future__ import annotations

import asyncio
import json
import re
from unittest.mock import patch

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_sim.client import AsyncSimClient
from airflow_provider_sim.exceptions import (
    Outcome,
    SimAuthenticationError,
    SimConfigurationError,
    SimConnectionError,
)
from airflow_provider_sim.hooks.sim import SimHook
from tests.canned_server import closed_port

KEY = "sk-sim-hook-test-key"


@pytest.fixture
def connect(monkeypatch):
    """Set the connection ``sim_default`` as a worker finds it in its environment."""

    def set_connection(conn_id: str = "sim_default", **fields: object) -> SimHook:
        value = {"conn_type": "sim", "password": KEY, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(value))
        return SimHook(conn_id)

    return set_connection


def settings_of(hook: SimHook):
    return hook.get_conn().settings


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        pytest.param({}, "https://www.sim.ai", id="no host"),
        pytest.param({"host": "https://sim.example.com"}, "https://sim.example.com", id="a URL"),
        pytest.param({"host": "https://sim.example.com///"}, "https://sim.example.com", id="trailing slashes"),
        pytest.param({"host": "http://10.0.0.7:3000/sim/"}, "http://10.0.0.7:3000/sim", id="path prefix kept"),
        pytest.param({"host": " https://sim.example.com "}, "https://sim.example.com", id="spaces around"),
        pytest.param({"host": "sim.example.com"}, "https://sim.example.com", id="host name only"),
        pytest.param({"host": "sim.example.com", "port": 8443}, "https://sim.example.com:8443", id="with a port"),
        pytest.param({"host": "http://10.0.0.7", "port": 3000}, "http://10.0.0.7:3000", id="a URL and a port"),
        pytest.param({"host": "http://[::1]/sim", "port": 3000}, "http://[::1]:3000/sim", id="an IPv6 URL and a port"),
        pytest.param({"host": "http://10.0.0.7:3000", "port": 80}, "http://10.0.0.7:3000", id="the URL's port first"),
        pytest.param({"host": "https://www.sim.ai", "port": 443}, "https://www.sim.ai", id="https has it anyway"),
        pytest.param({"host": "sim.example.com", "schema": "http"}, "http://sim.example.com", id="with a scheme"),
        pytest.param({"host": "sim.example.com/prefix", "port": 81}, "https://sim.example.com:81/prefix", id="all"),
        pytest.param({"host": "sim.example.com", "schema": "a/b/"}, "https://sim.example.com/a/b", id="path as schema"),
        pytest.param({"host": "http://sim/a", "schema": "/b"}, "http://sim/a/b", id="a path in both"),
        pytest.param({"host": "sim.example.com", "schema": "HTTP"}, "http://sim.example.com", id="scheme in capitals"),
        pytest.param({"host": "fd07::1", "schema": "http"}, "http://[fd07::1]", id="IPv6"),
        pytest.param({"host": "http://fd07::1/sim", "port": 3000}, "http://[fd07::1]:3000/sim", id="IPv6 in a URL"),
        pytest.param({"host": "[fd07::1]:3000", "port": 80}, "https://[fd07::1]:3000", id="IPv6 with its port"),
        pytest.param({"host": "fe80::1%eth0", "schema": "http"}, "http://[fe80::1%eth0]", id="IPv6 with a zone"),
        pytest.param({"port": 443}, "https://www.sim.ai", id="a standard port alone"),
    ],
)
def test_host_port_and_schema_make_the_base_url(connect, fields, base_url):
    assert connect(**fields).get_conn().base_url == base_url


def test_connection_uri_keeps_all_settings(monkeypatch):
    given = Connection(
        conn_id="sim_default",
        conn_type="sim",
        host="https://sim.example.com:8443/prefix",
        password="sk-sim-/?#@:%",
        extra=json.dumps({"timeout": 7, "verify": False}),
    )
    monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", given.get_uri())

    settings = settings_of(SimHook())

    assert settings.base_url == "https://sim.example.com:8443/prefix"
    assert settings.api_key == "sk-sim-/?#@:%"
    assert settings.timeout == 7
    assert settings.verify is False


def test_extras_reach_the_client(connect):
    hook = connect(
        extra={
            "workspace_id": "ws-1",
            "api_version": "legacy",
            "timeout": "12.5",
            "verify": "/etc/ssl/own.pem",
            "max_retries": "7",
            "initial_delay": 0.5,
            "max_delay": 9,
            "backoff_multiplier": 3,
        }
    )

    settings = settings_of(hook)

    assert (settings.api_version, settings.timeout, settings.verify) == ("legacy", 12.5, "/etc/ssl/own.pem")
    retry = settings.retry
    assert (retry.max_retries, retry.initial_delay, retry.max_delay, retry.backoff_multiplier) == (7, 0.5, 9.0, 3.0)
    assert settings.workspace_id == "ws-1"


def test_empty_extras_keep_the_defaults(connect):
    names = ("workspace_id", "api_version", "timeout", "verify", "max_retries", "max_delay")

    settings = settings_of(connect(extra=dict.fromkeys(names)))

    assert settings == settings_of(connect())


def test_retry_args_override_the_connection(connect):
    connect(extra={"max_retries": 7, "max_delay": 9})

    retry = settings_of(SimHook(retry_args={"max_retries": 1})).retry

    assert (retry.max_retries, retry.max_delay) == (1, 9)


def test_environment_fills_empty_connection_fields(connect, monkeypatch):
    monkeypatch.setenv("SIM_API_KEY", "sk-sim-from-environment")
    monkeypatch.setenv("SIM_BASE_URL", "http://sim.internal:3000")

    settings = settings_of(connect(password=None))

    assert (settings.api_key, settings.base_url) == ("sk-sim-from-environment", "http://sim.internal:3000")


def test_connection_overrides_the_environment(connect, monkeypatch):
    monkeypatch.setenv("SIM_API_KEY", "sk-sim-from-environment")
    monkeypatch.setenv("SIM_BASE_URL", "http://sim.internal:3000")

    settings = settings_of(connect(host="https://sim.example.com"))

    assert (settings.api_key, settings.base_url) == (KEY, "https://sim.example.com")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"password": ""}, "has no API key", id="no key"),
        pytest.param({"password": "", "login": KEY}, "login field.*sim://:KEY@host", id="key as login"),
        pytest.param({"password": "sk-sim\na"}, "line break", id="key with a line break"),
        pytest.param({"extra": "[1]"}, "a JSON object", id="extra is a list"),
        pytest.param({"extra": '"timeout"'}, "a JSON object", id="extra is a string"),
        pytest.param({"extra": "timeout=60"}, "a JSON object", id="extra is no JSON"),
        pytest.param({"schema": "prefix"}, "without a host", id="path without a host"),
        pytest.param({"port": 3000}, "without a host", id="port without a host"),
        pytest.param({"conn_type": "http"}, "is of type 'http', not 'sim'", id="another type"),
        pytest.param({"host": "ftp://sim.example.com"}, "not an http or https URL", id="another protocol"),
        pytest.param({"extra": {"timeout": "soon"}}, "timeout 'soon'", id="timeout no number"),
        pytest.param({"extra": {"timeout": 0}}, "timeout 0", id="timeout zero"),
        pytest.param({"extra": {"max_retries": -1}}, "max_retries is -1", id="negative retries"),
        pytest.param({"extra": {"max_retries": True}}, "max_retries is True", id="retries no number"),
        pytest.param({"extra": {"api_version": "v3"}}, "api_version 'v3'", id="unknown API version"),
        pytest.param({"extra": {"verify": 5}}, "setting verify 5", id="verify no path"),
    ],
)
def test_invalid_connection_error_names_the_setting(connect, fields, message):
    with pytest.raises(SimConfigurationError, match=f"^Connection 'sim_default' .*{message}") as caught:
        connect(**fields).get_conn()
    assert KEY not in str(caught.value)


def test_unknown_retry_args_are_rejected(connect):
    connect()
    with pytest.raises(SimConfigurationError, match="retry_args"):
        SimHook(retry_args={"tries": 3}).get_conn()


def test_unknown_connection_explains_how_to_add_one():
    with pytest.raises(SimConfigurationError, match="airflow connections add sim_nowhere --conn-type sim"):
        SimHook("sim_nowhere").get_conn()


def test_unknown_connection_fails_on_an_event_loop():
    async def enter() -> None:
        await SimHook("sim_nowhere").get_async_settings()

    with pytest.raises(
        SimConfigurationError, match="Connection 'sim_nowhere' doesn't exist or can't be read"
    ) as caught:
        asyncio.run(enter())
    assert caught.value.outcome is Outcome.NEVER_SENT


@pytest.mark.parametrize("fields", [{"conn_type": "http"}, {"password": ""}], ids=["another type", "no key"])
def test_invalid_connection_fails_on_an_event_loop(connect, fields):
    async def enter() -> None:
        await connect(**fields).get_async_settings()

    with pytest.raises(SimConfigurationError, match=r"of type 'http'|no API key"):
        asyncio.run(enter())


def test_hook_reuses_its_client_until_closed(connect):
    hook = connect()
    first = hook.get_conn()
    assert hook.get_conn() is first
    hook.close()
    assert hook.get_conn() is not first


def test_verify_accepts_text(connect):
    assert [settings_of(connect(extra={"verify": word})).verify for word in ("true", "No", "/ca")] == [
        True,
        False,
        "/ca",
    ]


def test_ui_field_behaviour_relabels_host_and_password():
    behaviour = SimHook.get_ui_field_behaviour()
    assert behaviour["relabeling"] == {"host": "Base URL", "password": "API key"}
    assert "schema" in behaviour["hidden_fields"]


def test_key_is_stripped_and_masked(connect):
    from airflow.providers.common.compat import sdk

    with patch.object(sdk, "mask_secret", create=True) as mask:
        assert settings_of(connect(password=f"{KEY}\n")).api_key == KEY
    mask.assert_called_once_with(KEY)


def test_connection_errors_name_the_airflow_connection(connect):
    hook = connect("sim_prod", host=f"http://127.0.0.1:{closed_port()}", extra={"max_retries": 0})
    with hook, pytest.raises(SimConnectionError, match=r"\[connection 'sim_prod'\]$"):
        hook.get_conn().get_workflow("w")

    async def ask() -> None:
        async with AsyncSimClient.from_settings(await hook.get_async_settings()) as client:
            await client.get_workflow("w")

    with pytest.raises(SimConnectionError, match=r"\[connection 'sim_prod'\]$"):
        asyncio.run(ask())


def test_http_errors_name_status_and_airflow_connection(connect, emulator):
    with connect(host=emulator.url, password="sk-sim-another") as hook, pytest.raises(SimAuthenticationError) as caught:
        hook.get_conn().get_workflow("w")
    assert re.search(r"\[HTTP 401, request \w+, connection 'sim_default'\]$", str(caught.value))
