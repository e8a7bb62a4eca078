"""Invalid connections, each with a server that responds accordingly.

The tests of :meth:`SimHook.test_connection`, the browser tests of Airflow's connection form, and the tables of
``docs/reference/errors.md`` use them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_sim.emulator import SimEmulator
from tests.canned_server import Answer, CannedServer, canned, closed_port
from tests.certificates import self_signed


@dataclass(frozen=True)
class BadConnection:
    """An invalid connection.

    :param label: what is invalid.
    :param advice: text that the message of the connection test contains.
    """

    label: str
    advice: str
    host: str
    port: int
    password: str
    api_version: str = "auto"

    @property
    def connection(self) -> dict[str, Any]:
        """Fields as in ``AIRFLOW_CONN_…`` and, with an ID, in Airflow's REST API."""
        return {
            "conn_type": "sim",
            "host": self.host,
            "port": self.port,
            "password": self.password,
            "extra": json.dumps({"api_version": self.api_version}),
        }


@contextlib.contextmanager
def bad_connections(sim: SimEmulator) -> Iterator[list[BadConnection]]:
    """Start the servers and yield the connections.

    :param sim: an emulator for the connections that need a working server.
    """
    page = Answer(200, b"<!DOCTYPE html><title>Welcome</title>", {"content-type": "text/html"})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        without_v2 = stack.enter_context(SimEmulator(profile="v0.8-legacy"))
        tls_only = stack.enter_context(CannedServer(Answer(), tls=self_signed(folder / "server.pem")))
        to_https = stack.enter_context(canned(_redirect("https://sim.example.com")))
        to_www = stack.enter_context(canned(_redirect("https://www.sim.ai")))
        other = stack.enter_context(canned(page))

        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns about TLS handshakes on a plain port

        def case(label: str, advice: str, url: str, path: str = "", **fields: Any) -> BadConnection:
            parts = urlsplit(url)
            fields = {"host": f"{parts.scheme}://{parts.hostname}{path}", "port": parts.port, **fields}
            return BadConnection(label, advice, **{"password": sim.api_key, **fields})

        yield [
            case("invalid API key", "Put a current key", sim.url, password="sk-sim-other"),
            case("no API key", "has no API key. Set the password field", sim.url, password=""),
            case("http, redirected to https", "(host) to https://sim.example.com;", to_https.url),
            case("http to an https port", "start the base URL with https://", _as("http", tls_only.url)),
            case("https to an http port", "(host) with http://", _as("https", sim.url)),
            case("untrusted certificate", "extra 'verify' to the path of your CA bundle", tls_only.url),
            case("sim.ai without www", "base URL (host) to https://www.sim.ai;", to_www.url),
            case("unknown host name", "Check the connection's base URL", "http://sim.invalid:80"),
            case("connection refused", "whether Sim is running", f"http://127.0.0.1:{closed_port()}"),
            case("base URL ends in /api/v2", "without /api", sim.url, "/api/v2"),
            case("wrong path", "lack its path prefix", sim.url, "/sim"),
            case("another site", "URL of Sim's start page", other.url),
            case(
                "`api_version` is `v2`, v2 API disabled",
                "Set V2_API=true on the server, or api_version to auto",
                without_v2.url,
                password=without_v2.api_key,
                api_version="v2",
            ),
        ]


def _redirect(base_url: str) -> Answer:
    return Answer(308, b"", {"location": f"{base_url}/api/v2/workspaces"})


def _as(scheme: str, url: str) -> str:
    return urlsplit(url)._replace(scheme=scheme).geturl()
