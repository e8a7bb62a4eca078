"""Ways to get a connection wrong, each with a server that answers as it then would.

The tests let :meth:`SimHook.test_connection` judge them, the tour through Airflow's pages presses the button for each,
and ``docs/errors.md`` lists what is said.
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
    """What somebody has put into the form.

    :param what: what is wrong with it.
    :param advice: what the test has to say about the change that is needed.
    """

    what: str
    advice: str
    host: str
    port: int
    password: str
    api_version: str = "auto"

    @property
    def connection(self) -> dict[str, Any]:
        """As ``AIRFLOW_CONN_…`` holds it, and, with an id, Airflow's REST API takes it."""
        return {
            "conn_type": "sim",
            "host": self.host,
            "port": self.port,
            "password": self.password,
            "extra": json.dumps({"api_version": self.api_version}),
        }


@contextlib.contextmanager
def bad_connections(sim: SimEmulator) -> Iterator[list[BadConnection]]:
    """All of them, and their servers for a ``with`` block.

    :param sim: a server that all would be well with.
    """
    page = Answer(200, b"<!DOCTYPE html><title>Welcome</title>", {"content-type": "text/html"})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        without_v2 = stack.enter_context(SimEmulator(profile="v0.8-legacy"))
        of_tls = stack.enter_context(CannedServer(Answer(), tls=self_signed(folder / "server.pem")))
        to_https = stack.enter_context(canned(_elsewhere("https://sim.example.com")))
        to_www = stack.enter_context(canned(_elsewhere("https://www.sim.ai")))
        other = stack.enter_context(canned(page))

        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # which warns of TLS where it speaks none

        def case(what: str, advice: str, url: str, path: str = "", **fields: Any) -> BadConnection:
            parts = urlsplit(url)
            fields = {"host": f"{parts.scheme}://{parts.hostname}{path}", "port": parts.port, **fields}
            return BadConnection(what, advice, **{"password": sim.api_key, **fields})

        yield [
            case("another key", "Put a current key (Sim, Settings, API keys)", sim.url, password="sk-sim-of-another"),
            case("no key", "has no API key. Set the password field", sim.url, password=""),
            case("http, where the server leads on to https", "(host) to https://sim.example.com;", to_https.url),
            case("http, where only https is spoken", "begin the base URL with https://", _as("http", of_tls.url)),
            case("https, where only http is spoken", "(host) with http://", _as("https", sim.url)),
            case("a certificate that nobody trusts", "extra 'verify' to the path of your CA bundle", of_tls.url),
            case("sim.ai without www", "base URL (host) to https://www.sim.ai;", to_www.url),
            case("a host that doesn't exist", "Check the connection's base URL", "http://sim.invalid:80"),
            case("a port at which nobody listens", "whether Sim is running", f"http://127.0.0.1:{closed_port()}"),
            case("a path that ends in /api/v2", "without /api", sim.url, "/api/v2"),
            case("a path that is wrong", "lack its path prefix", sim.url, "/sim"),
            case("another site", "not Sim", other.url),
            case(
                "`api_version` is `v2`, where that is off",
                "Set V2_API=true on the server, or api_version to auto",
                without_v2.url,
                password=without_v2.api_key,
                api_version="v2",
            ),
        ]


def _elsewhere(base_url: str) -> Answer:
    return Answer(308, b"", {"location": f"{base_url}/api/v2/workspaces"})


def _as(scheme: str, url: str) -> str:
    return urlsplit(url)._replace(scheme=scheme).geturl()
