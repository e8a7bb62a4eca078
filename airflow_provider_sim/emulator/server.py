"""The emulator in a thread: on a free port of 127.0.0.1, ready when its ``with`` block begins."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette

from airflow_provider_sim.emulator.app import application
from airflow_provider_sim.emulator.builtin import workflows_of_file
from airflow_provider_sim.emulator.clock import Clock
from airflow_provider_sim.emulator.keys import KeyRing
from airflow_provider_sim.emulator.limits import Limits
from airflow_provider_sim.emulator.profiles import profile_named
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import SeenRequest, State
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

    :param profile: which server version to be: ``v0.3.10``, ``v0.5.0``, ``v0.5.16``, ``v0.6.15``, ``v0.6.40``,
        ``v0.8-legacy`` (v2 switched off) or ``v0.8``.
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
        self.clock: Clock
        self.state: State
        self.reset()
        self.workspace_key = self.state.keys.workspace.value
        self.other_user_key = self.state.keys.other_user.value
        self.other_workspace_key = self.state.keys.other_workspace.value

    def reset(self) -> None:
        """Become a new server at the same address: forget runs, requests, settings, and workflows made by tests."""
        address = "" if self._application is None else self.state.base_url
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

    def cancel(self, run_id: str) -> None:
        """Cancel a run, as somebody in Sim's UI would."""
        self.state.runs[run_id].cancel()

    def resume(self, run_id: str, answer: Any) -> None:
        """Answer a run's pause, as somebody in Sim's UI would."""
        self.state.runs[run_id].resume(answer)

    def clear(self) -> None:
        """Forget runs and requests; workflows and settings stay."""
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
        self._application = application(self.state)
        config = uvicorn.Config(
            self._application,
            log_level="warning",
            access_log=False,
            lifespan="off",
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
