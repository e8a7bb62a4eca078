"""The emulator in a thread: on a free port of 127.0.0.1, ready when its ``with`` block begins."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette

from airflow_provider_sim.emulator.app import application
from airflow_provider_sim.emulator.builtin import workflows_of_file
from airflow_provider_sim.emulator.clock import Clock
from airflow_provider_sim.emulator.connections import Connections
from airflow_provider_sim.emulator.exchange import SeenRequest, Stage
from airflow_provider_sim.emulator.faults import fault_named
from airflow_provider_sim.emulator.keys import KeyRing
from airflow_provider_sim.emulator.limits import Limits
from airflow_provider_sim.emulator.orders import Count, Hold, Match, Order
from airflow_provider_sim.emulator.profiles import profile_named
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.workflows import Body, Workflow

DEFAULT_API_KEY = "sk-sim-emulator-personal-key"
WORKSPACE_ID = "11111111-2222-4333-8444-555555555555"


class SimEmulator:
    """A Sim server of one's own.

    ::

        with SimEmulator() as sim:
            @sim.workflow("double")
            def double(input):
                return {"number": 2 * input["number"]}
            ...  # sim.url, sim.api_key, sim.runs

    :param profile: the server version: ``v0.5.44``, ``v0.6.40``, ``v0.7``, ``v0.8-legacy`` (v2 switched off) or
        ``v0.8``.
    :param plan: whose limits to keep: ``free``, ``pro``, ``team``, ``enterprise``; None for a self-hosted server.
    :param api_key: the first user's personal key.
    :param workflows: a TOML file with workflows, beside the ones that are always there.
    :param port: 0 takes a free one.
    :raises ValueError: there is no such profile or plan, or the file makes no sense.
    """

    def __init__(
        self,
        *,
        profile: str = "v0.8",
        plan: str | None = None,
        api_key: str = DEFAULT_API_KEY,
        workflows: Path | None = None,
        port: int = 0,
    ) -> None:
        self._profile = profile_named(profile)
        self._plan = plan
        self._workflows = list(workflows_of_file(workflows)) if workflows else []
        self.api_key = api_key
        self.workspace_id = WORKSPACE_ID
        self._port = port
        self._application: Starlette | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._connections = Connections()
        self.clock: Clock
        self.state: State
        self.reset()
        self.workspace_key = self.state.keys.workspace.value
        self.other_user_key = self.state.keys.other_user.value
        self.other_workspace_key = self.state.keys.other_workspace.value

    def reset(self) -> None:
        """Become a new server at the same address: forget runs, requests, settings, and workflows made by tests."""
        address = ""
        if self._application is not None:
            address = self.state.base_url
            self.state.orders.undo()
        self.clock = Clock()
        self.state = State(
            profile=self._profile,
            clock=self.clock,
            keys=KeyRing(self.api_key, WORKSPACE_ID),
            limits=Limits(self.clock, self._plan),
            workspace_id=WORKSPACE_ID,
            base_url=address,
        )
        for workflow in self._workflows:
            self.state.add(dataclasses.replace(workflow))
        if self._application is not None:
            self._application.state.sim = self.state

    @property
    def url(self) -> str:
        """The base URL, once it is started."""
        return self.state.base_url

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of their start."""
        return list(self.state.runs.values())

    def runs_of(self, workflow_id: str) -> list[Run]:
        """A workflow's runs, in the order of their start."""
        return [run for run in self.runs if run.workflow_id == workflow_id]

    def inputs_of(self, workflow_id: str) -> list[dict[str, Any]]:
        """The inputs of a workflow's runs, in the order of their start; one of them means that it was run once."""
        return [run.input for run in self.runs_of(workflow_id)]

    def connection(self, **fields: Any) -> str:
        """Return the Airflow connection to this server, as JSON for ``AIRFLOW_CONN_…``.

        :param fields: other or additional fields: ``password``, ``extra`` …
        """
        port = urlsplit(self.url).port  # the connection test of Airflow 3.3.2 requires one
        connection = {"conn_type": "sim", "host": self.url, "port": port, "password": self.api_key, **fields}
        return json.dumps(connection)

    @property
    def requests(self) -> list[SeenRequest]:
        """All requests, in the order of their answers."""
        return list(self.state.requests)

    def workflow(self, workflow_id: str, **options: Any) -> Callable[[Body], Body]:
        """Make a function a deployed workflow: it gets the input as a dict and returns the output.

        :param options: further fields of :class:`~.workflows.Workflow`: ``duration``, ``inputs``, ``chunks`` …
        """

        def deploy(body: Body) -> Body:
            self.state.add(Workflow(workflow_id, body, **options))
            return body

        return deploy

    def on_start(self, workflow_id: str, do: Callable[[Run], None]) -> None:
        """Do something whenever a run of this workflow is started."""
        self.state.start_listeners.append(lambda run: do(run) if run.workflow_id == workflow_id else None)

    def on_request(self, do: Callable[[SeenRequest], None]) -> None:
        """Do something whenever a request was answered."""
        self.state.request_listeners.append(do)

    def fault(
        self,
        name: str,
        *,
        match: Match | str | None = None,
        times: int | None = 1,
        after: int = 0,
        lasting: float | None = None,
        **parameters: Any,
    ) -> Order:
        """Let something go wrong, with requests to come; ``docs/emulator.md`` lists what.

        ::

            with sim.fault("drop_after_accept", match="execute") as order:
                ...  # the next execution gets no answer
            assert order.struck == 1

        :param match: with which requests: an operation such as ``execute``, or a :class:`Match`; None for any.
        :param times: with how many of them; None for all.
        :param after: how many of them pass unharmed first.
        :param lasting: for how many seconds of the emulator's clock, at most.
        :returns: what can be undone, and is at the end of a ``with`` block.
        :raises ValueError: there is no such fault, or it has no such parameter or value.
        """
        order = Order(fault_named(name, parameters), Match.of(match), Count(times, after, lasting))
        self.state.orders.add(order)
        return order

    def hold(
        self,
        match: Match | str | None = None,
        *,
        when: Stage = "before",
        times: int | None = 1,
        after: int = 0,
        proxied: bool = False,
    ) -> Hold:
        """Let requests to come wait inside the server until they are released.

        ::

            with sim.hold("execute", when="accepted") as hold:
                ...  # in another thread or process, somebody executes a workflow
                hold.wait_until_held()
                ...  # now the run is started, and its caller doesn't know

        :param match: which requests, as for :meth:`fault`; the same for ``times`` and ``after``.
        :param when: they wait ``before`` anything is done; once they are ``accepted``: carried out, a held-open run
            begun; or when the answer is ``done``, and nothing of it sent.
        :param proxied: that a caller hangs up isn't seen; else it ends the waiting: nothing is done that isn't done,
            and a held-open run is cancelled.
        """
        hold = Hold(Match.of(match), Count(times, after), when=when, proxied=proxied)
        self.state.orders.add(hold)
        return hold

    def restart(self) -> None:
        """Die and come back: runs that go on stay so for ever, queued ones are forgotten, connections are cut."""
        self.state.restart()
        self._connections.cut_all()

    def cancel(self, run_id: str) -> None:
        """Cancel a run, as somebody in Sim's UI would."""
        self.state.runs[run_id].cancel()

    def resume(self, run_id: str, answer: Any) -> None:
        """Answer a run's pause, as somebody in Sim's UI would."""
        self.state.runs[run_id].resume(answer)

    def clear(self) -> None:
        """Forget runs, requests and orders; workflows and settings stay."""
        self.state.clear()

    def start(self) -> Self:
        """Start serving; return when requests are taken.

        :raises OSError: the port is taken.
        """
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(1024)
        self.state.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._application = application(self.state, self._connections, self.reset)
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
        # The socket listens already: whoever connects before uvicorn takes over waits in its queue.
        return self

    def stop(self) -> None:
        """Stop serving; requests that are held open are cut off."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join(timeout=1)
            if self._thread.is_alive():  # on Python 3.12 it waits for connections that are held, even so
                self._connections.cut_all()
                self._thread.join(timeout=10)
            self._server = self._thread = None

    def __enter__(self) -> Self:
        """Start serving."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self.stop()
