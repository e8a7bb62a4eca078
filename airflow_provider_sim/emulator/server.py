"""The emulator as a server in a thread, on a port of 127.0.0.1."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

import uvicorn

from airflow_provider_sim.emulator.app import application
from airflow_provider_sim.emulator.clock import Clock
from airflow_provider_sim.emulator.connections import Connections
from airflow_provider_sim.emulator.fault_rules import FaultRule, Hold, Match
from airflow_provider_sim.emulator.faults import create_fault
from airflow_provider_sim.emulator.files import StoredFile
from airflow_provider_sim.emulator.limits import Limits
from airflow_provider_sim.emulator.profiles import PROFILES
from airflow_provider_sim.emulator.request_context import RecordedRequest, Stage
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import KeyRing, State
from airflow_provider_sim.emulator.workflows import Body, Workflow

DEFAULT_API_KEY = "sk-sim-emulator-personal-key"
WORKSPACE_ID = "11111111-2222-4333-8444-555555555555"


class SimEmulator:
    """A local Sim server.

    ::

        with SimEmulator() as sim:
            @sim.workflow("double")
            def double(input):
                return {"number": 2 * input["number"]}
            ...  # sim.url, sim.api_key, sim.runs

    :param profile: the server version: ``v0.5.44``, ``v0.6.40``, ``v0.7``, ``v0.8-legacy`` (v2 switched off) or
        ``v0.8``.
    :param plan: the plan whose limits apply: ``free``, ``pro``, ``team`` or ``enterprise``; None for a self-hosted
        server.
    :param api_key: the first user's personal key.
    :param port: 0 for a free one.
    :ivar clock: advance it, so that nothing has to wait.
    :ivar state: the server's state and settings; a test may change them at any time.
    """

    def __init__(
        self, *, profile: str = "v0.8", plan: str | None = None, api_key: str = DEFAULT_API_KEY, port: int = 0
    ) -> None:
        if profile not in PROFILES:
            raise ValueError(f"unknown profile {profile!r}; choose from {', '.join(PROFILES)}")
        self._profile = PROFILES[profile]
        self._plan = plan
        self.api_key = api_key
        self.workspace_id = WORKSPACE_ID
        self._port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._connections = Connections()
        self.state = self._initial_state()
        self._application = application(self.state, self.reset)
        self.workspace_key = self.state.keys.workspace.value
        self.other_user_key = self.state.keys.other_user.value
        self.other_workspace_key = self.state.keys.other_workspace.value

    def _initial_state(self, base_url: str = "") -> State:
        clock = Clock()
        return State(
            profile=self._profile,
            clock=clock,
            keys=KeyRing(self.api_key, WORKSPACE_ID),
            limits=Limits(clock, self._plan),
            workspace_id=WORKSPACE_ID,
            connections=self._connections,
            base_url=base_url,
        )

    def reset(self) -> None:
        """Reset to the initial state, without the runs, files, requests, settings and workflows of a test."""
        self.state.fault_rules.remove()
        self.state = self._application.state.sim = self._initial_state(self.url)

    @property
    def clock(self) -> Clock:
        return self.state.clock

    @property
    def url(self) -> str:
        """The base URL, once the server is started."""
        return self.state.base_url

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of their starts."""
        return list(self.state.runs.values())

    @property
    def files(self) -> list[StoredFile]:
        """The workspaces' files that are not deleted, in the order of their creation."""
        return self.state.files.existing

    def runs_of(self, workflow_id: str) -> list[Run]:
        return [run for run in self.runs if run.workflow_id == workflow_id]

    def inputs_of(self, workflow_id: str) -> list[dict[str, Any]]:
        return [run.input for run in self.runs_of(workflow_id)]

    def connection(self, **fields: Any) -> str:
        """Return the Airflow connection to this server, as JSON for ``AIRFLOW_CONN_…``.

        :param fields: additional or changed fields: ``password``, ``extra`` …
        """
        port = urlsplit(self.url).port  # the connection test of Airflow 3.3.2 requires one
        connection = {"conn_type": "sim", "host": self.url, "port": port, "password": self.api_key, **fields}
        return json.dumps(connection)

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests, in the order of their responses."""
        return list(self.state.requests)

    def workflow(self, workflow_id: str, **options: Any) -> Callable[[Body], Body]:
        """Make a function a deployed workflow; it receives the input as a dict and returns the output.

        :param options: further fields of :class:`~.workflows.Workflow`: ``duration``, ``inputs``, ``chunks`` …
        """

        def deploy(body: Body) -> Body:
            self.state.add(Workflow(workflow_id, body, **options))
            return body

        return deploy

    def on_start(self, workflow_id: str, do: Callable[[Run], None]) -> None:
        """Call a function whenever a run of this workflow starts."""
        self.state.start_listeners.append(lambda run: do(run) if run.workflow_id == workflow_id else None)

    def on_request(self, do: Callable[[RecordedRequest], None]) -> None:
        """Call a function for every request that has a response."""
        self.state.request_listeners.append(do)

    def fault(
        self, name: str, *, match: Match | str | None = None, times: int | None = 1, after: int = 0, **parameters: Any
    ) -> FaultRule:
        """Apply a fault to the next requests; ``docs/reference/emulator.md`` lists the faults.

        :param match: the affected requests: an operation such as ``execute``, or a :class:`Match`; None for all.
        :param times: how many of them; None for all.
        :param after: how many of them pass before.
        :returns: the rule, which can be removed and ends with a ``with`` block.
        :raises ValueError: the fault or a parameter is unknown, or a value is invalid.
        """
        rule = FaultRule(create_fault(name, parameters), Match.of(match), times=times, after=after)
        self.state.fault_rules.add(rule)
        return rule

    def hold(
        self,
        match: Match | str | None = None,
        *,
        when: Stage = "before",
        times: int | None = 1,
        after: int = 0,
        proxied: bool = False,
    ) -> Hold:
        """Hold the next requests inside the server until they are released.

        :param match: as for :meth:`fault`; the same for ``times`` and ``after``.
        :param when: ``before`` anything is done, when the request is ``accepted`` (carried out; a sync run is started),
            or when the response is ``done`` and none of it is sent.
        :param proxied: do not notice when a caller disconnects; otherwise that ends the hold and cancels a sync run.
        """
        hold = Hold(Match.of(match), times=times, after=after, when=when, proxied=proxied)
        self.state.fault_rules.add(hold)
        return hold

    def restart(self) -> None:
        """Restart: connections are cut, running runs stay ``running`` forever, queued runs are lost."""
        self.state.restart()

    def cancel(self, run_id: str) -> None:
        """Cancel a run, as a person does in Sim."""
        self.state.runs[run_id].cancel()

    def resume(self, run_id: str, answer: Any) -> None:
        """Resume a paused run, as a person does in Sim."""
        self.state.runs[run_id].resume(answer)

    def clear(self) -> None:
        """Remove runs, files, requests and fault rules; workflows and settings stay."""
        self.state.clear()

    def start(self) -> Self:
        """Start the server; return when it accepts connections.

        :raises OSError: the port is in use.
        """
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(1024)
        self.state.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._application,
            log_level="warning",
            access_log=False,
            lifespan="off",
            http=self._connections.protocol(),
            proxy_headers=False,
            timeout_keep_alive=75,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="sim-emulator", daemon=True
        )
        self._thread.start()
        # The socket is listening, so connections made before uvicorn is ready wait in its queue.
        return self

    def stop(self) -> None:
        """Stop the server; open requests are cut."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(timeout=1)
            if self._thread.is_alive():  # Python 3.12 still waits for open connections
                self._connections.cut_all()
                self._thread.join(timeout=10)
            self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
