"""Connections in the forms that Airflow stores and transports, on the installed Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from scripts import local_airflow
from tests.versions import needs_airflow

pytestmark = pytest.mark.airflow

KEY = "sk-sim-/?#@:%-of-a-border-test"
QUOTED = "sk-sim-%2F%3F%23%40%3A%25-of-a-border-test"

URIS = {
    f"sim://:{QUOTED}@sim.internal/prefix": "https://sim.internal/prefix",
    f"sim://:{QUOTED}@sim.internal:8443/a/b/": "https://sim.internal:8443/a/b",
    f"sim://https://:{QUOTED}@sim.internal/prefix": "https://sim.internal/prefix",
    f"sim://http://:{QUOTED}@sim.internal:3000": "http://sim.internal:3000",
    f"sim://:{QUOTED}@sim.internal:3000/http": "http://sim.internal:3000",
    f"sim://http://:{QUOTED}@[fd07::1]:3000": "http://[fd07::1]:3000",
    f"sim://:{QUOTED}@[::1]:3000/prefix?timeout=5": "https://[::1]:3000/prefix",
    f"sim://:{QUOTED}@http%3A%2F%2Fsim.internal%3A3000%2Fprefix": "http://sim.internal:3000/prefix",
    f"sim://:{QUOTED}@/?timeout=5": "https://www.sim.ai",
}


def run_python(source: str, env: dict[str, str]) -> str:
    """Run Python in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout.splitlines()[-1]


def test_connection_uri_forms_and_their_round_trip(tmp_path):
    """Each URI as given, and as Airflow writes the connection back."""
    printed = run_python(
        """
        import json, os, sys
        from airflow.models.connection import Connection
        from airflow.providers.common.compat.sdk import Connection as SdkConnection
        from airflow_provider_sim.hooks.sim import SimHook

        def settings(uri):
            os.environ["AIRFLOW_CONN_TESTED"] = uri
            found = SimHook("tested").get_settings()
            return [found.base_url, found.api_key, found.timeout]

        found = {}
        for uri in json.loads(os.environ["URIS"]):
            kinds = [Connection(conn_id="tested", uri=uri)]
            if hasattr(SdkConnection, "from_uri"):
                try:
                    kinds.append(SdkConnection.from_uri(uri, conn_id="tested"))
                except AttributeError:  # Airflow 3.0 needs a running task for that
                    pass
            found[uri] = [settings(uri), *(settings(kind.get_uri()) for kind in kinds)]
        print()
        print(json.dumps(found))
        """,
        {"URIS": json.dumps(list(URIS)), "AIRFLOW_HOME": str(tmp_path)},
    )
    for uri, found in json.loads(printed).items():
        timeout = 5.0 if "timeout" in uri else 30.0
        assert found == [[URIS[uri], KEY, timeout]] * len(found), uri
        assert len(found) > 1


def test_connection_extra_must_be_an_object(tmp_path):
    printed = run_python(
        """
        import os
        from airflow_provider_sim.exceptions import SimConfigurationError
        from airflow_provider_sim.hooks.sim import SimHook
        messages = []
        for value in ("sim://:key-of-a-test@sim.internal?__extra__=%5B1%5D", '{"conn_type": "sim", "extra": "[1]"}'):
            os.environ["AIRFLOW_CONN_TESTED"] = value
            try:
                SimHook("tested").get_settings()
            except SimConfigurationError as error:
                messages.append(str(error))
        print()
        print(*messages)
        """,
        {"AIRFLOW_HOME": str(tmp_path)},
    )
    assert printed.count("Connection 'tested' ") == printed.count("JSON object") == 2, printed


@needs_airflow("3.1", "an API server that issues tokens with a current PyJWT")
def test_connection_test_passes_for_the_demo_connection(tmp_path, sim):
    home = tmp_path / "home"
    env = {
        **local_airflow.environment(home, sim_url=sim.url, sim_key=sim.api_key),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    }
    connection = env.pop("AIRFLOW_CONN_SIM_DEFAULT")
    for words in (["db", "migrate"], ["connections", "add", "sim_default", "--conn-json", connection]):
        subprocess.run(
            [sys.executable, "-m", "airflow", *words], env={**os.environ, **env}, check=True, capture_output=True
        )
    printed = run_python(
        """
        import json
        from fastapi.testclient import TestClient
        from airflow.api_fastapi.app import create_app

        with TestClient(create_app()) as client:
            token = client.get("/auth/token").json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            stored = client.get("/api/v2/connections/sim_default", headers=headers).json()
            names = ("connection_id", "conn_type", "description", "extra", "host", "login", "password", "schema")
            body = {name: stored.get(name) or "" for name in names}  # as the page of connections sends it
            body["port"] = int(stored["port"] or 0)
            tested = client.post("/api/v2/connections/test", json=body, headers=headers)
            print()
            print(json.dumps([tested.status_code, tested.json()]))
        """,
        env,
    )
    status, tested = json.loads(printed)
    assert (status, tested.get("status")) == (200, True), printed
    assert tested["message"].startswith(f"Connected to {sim.url}")
