"""Errors of invalid input and failing servers, from real runs.

``python -m scripts.bad_input`` runs each case against the emulator or a server with canned responses, mostly through
the operator, and prints the resulting error. ``--markdown`` prints the tables of ``docs/reference/errors.md``,
``--update`` writes them there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from airflow_provider_sim.emulator import SimEmulator
from scripts.bad_connections import bad_connections
from scripts.local_airflow import REPO
from tests.canned_server import Answer, CannedServer, canned, closed_port
from tests.certificates import self_signed

DOCS = REPO / "docs" / "reference" / "errors.md"
BEGIN, END = "<!-- python -m scripts.bad_input --markdown -->", "<!-- end -->"
KEY = "sk-sim-emulator-personal-key"

SERVER_SIDE = {
    "never sent": "not sent",
    "refused": "rejected",
    "unknown": "unknown",
    "ran": "started",
}
"""State of the request on the server, by an error's outcome."""


@dataclass(frozen=True)
class CaseResult:
    """Outcome of a case.

    :param error: class name of the error; None if the case succeeds.
    :param outcome: the error's outcome attribute.
    :param retried_by: ``client``, ``Airflow``, both, or ``none``.
    :param starts: requests to start a run that the server received.
    :param runs: runs that the server started; None for a server with canned responses.
    """

    case: str
    error: str | None
    outcome: str
    retried_by: str
    starts: int
    runs: int | None
    message: str


# --- environment of a case -----------------------------------------------------------------------------------------


@dataclass
class Environment:
    """One server at a time, and the connection ``sim_default`` to it.

    :ivar folder: directory for certificates.
    :ivar sleeps: number of retry delays of the client, which are skipped.
    """

    folder: Path
    server: SimEmulator | CannedServer | None = None
    sleeps: int = 0
    _sims: dict[str, SimEmulator] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def emulator(self, profile: str = "v0.8", **connection: Any) -> SimEmulator:
        """Connect to an emulator in its initial state."""
        if profile not in self._sims:
            self._sims[profile] = self._stack.enter_context(SimEmulator(profile=profile, api_key=KEY))
        self.server = sim = self._sims[profile]
        sim.reset()
        self.connect(host=sim.url, **connection)
        return sim

    def canned(self, *answers: Answer | tuple[str, Answer], api_version: str = "v2") -> CannedServer:
        """Connect to a server that returns these responses."""
        self.server = server = self._stack.enter_context(canned(*answers))
        self.connect(host=server.url, extra={"api_version": api_version})
        return server

    def untrusted(self) -> CannedServer:
        """Connect to a server with a self-signed certificate."""
        context = self_signed(self.folder / "server.pem")
        self.server = server = self._stack.enter_context(CannedServer(Answer(), tls=context))
        self.connect(host=server.url)
        return server

    def connect(self, *, extra: dict[str, Any] | str | None = None, **fields: Any) -> None:
        """Set the connection ``sim_default``."""
        extras = extra if isinstance(extra, str) else {"workspace_id": "w", **(extra or {})}
        value = {"conn_type": "sim", "password": KEY, **fields, "extra": extras}
        os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = json.dumps(value)

    def execute(self, workflow_id: str = "echo_plain", **arguments: Any) -> Any:
        """Execute a SimExecuteWorkflowOperator."""
        from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

        arguments.setdefault("retry_args", {"max_retries": 1})
        return SimExecuteWorkflowOperator(task_id="t", workflow_id=workflow_id, **arguments).execute(_context())

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the hook's client."""
        from airflow_provider_sim.hooks.sim import SimHook

        with SimHook(retry_args={"max_retries": 1}) as hook:
            return getattr(hook.get_conn(), method)(*arguments, **options)

    def close(self) -> None:
        """Stop all servers."""
        self._stack.close()

    def counts(self) -> tuple[int, int | None]:
        """Return the requests to start a run that the server received, and the runs that it started."""
        if self.server is None:
            return 0, 0
        starts = [got for got in self.server.requests if got.method == "POST" and got.path.endswith("/execute")]
        if isinstance(self.server, CannedServer):
            return len(starts), None
        return len(starts), sum(run.refused is None for run in self.server.runs)


class _TaskInstance:
    dag_id, task_id, run_id, map_index = "d", "t", "m", -1

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        """Store an XCom."""
        self.xcoms[key] = value

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        """Return an XCom of this task instance."""
        return self.xcoms.get(key)


def _context() -> Any:
    return {"ti": _TaskInstance()}


# --- cases ---------------------------------------------------------------------------------------------------------

Case = Callable[[Environment], Any]
Prepare = Callable[[SimEmulator], None]
LEGACY = {"api_version": "legacy"}


def task(workflow_id: str = "echo_plain", **arguments: Any) -> Case:
    """A task on the newest emulated server."""
    return emulated(lambda sim: None, workflow_id, **arguments)


def emulated(
    prepare: Prepare,
    workflow_id: str = "echo_plain",
    *,
    profile: str = "v0.8",
    connection: dict[str, Any] | None = None,
    **arguments: Any,
) -> Case:
    """A task on an emulator that ``prepare`` has changed."""

    def run(env: Environment) -> None:
        prepare(env.emulator(profile, **(connection or {})))
        env.execute(workflow_id, **arguments)

    return run


def canned_task(*answers: Answer | tuple[str, Answer], api_version: str = "v2", **arguments: Any) -> Case:
    """A task on a server that returns these responses."""

    def run(env: Environment) -> None:
        env.canned(*answers, api_version=api_version)
        env.execute("wf-1", **arguments)

    return run


def connection_task(**fields: Any) -> Case:
    """A task with an invalid connection."""

    def run(env: Environment) -> None:
        env.server = None
        env.connect(**fields)
        env.execute()

    return run


def v2(status: int, code: str, message: str, details: Any = None, **headers: str) -> Answer:
    """An error response of the v2 API."""
    error = {"code": code, "message": message, **({} if details is None else {"details": details})}
    return Answer(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


def page(status: int, title: str) -> Answer:
    """A web page."""
    return Answer(status, f"<!DOCTYPE html><title>{title}</title>".encode(), {"content-type": "text/html"})


def stream(*frames: str, **headers: str) -> Answer:
    """Server-sent events."""
    body = "".join(f"data: {frame}\n\n" for frame in frames).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, body, {"content-type": "text/event-stream", **names})


def exceed_usage_limit(sim: SimEmulator) -> None:
    """Set the usage above the usage limit."""
    sim.state.limits.usage, sim.state.limits.usage_limit = 10.63, 1.0


def empty_bucket(name: str) -> Prepare:
    """Set a rate limit of the plan to zero."""

    def prepare(sim: SimEmulator) -> None:
        setattr(sim.state.limits, f"{name}_per_minute", 0)
        sim.state.limits.clear()

    return prepare


def exhaust_address_limit(sim: SimEmulator) -> None:
    """Use up the v2 API's rate limit for one IP address."""
    while sim.state.limits.address.take():
        pass


def set_limits(**limits: int) -> Prepare:
    """Set limits."""

    def prepare(sim: SimEmulator) -> None:
        for name, value in limits.items():
            setattr(sim.state.limits, name, value)

    return prepare


def reject_personal_keys(sim: SimEmulator) -> None:
    """Allow workspace keys only."""
    sim.state.keys.personal_keys_allowed = False


def cancel_on_start(sim: SimEmulator) -> None:
    """Cancel every run of ``slow`` on start."""
    sim.on_start("slow", lambda run: sim.cancel(run.run_id))


def unreachable(host: str) -> Case:
    """A task for a host that doesn't answer."""
    return connection_task(host=host, extra={"api_version": "v2"})


def untrusted(env: Environment) -> None:
    """A task for a server with a self-signed certificate."""
    env.untrusted()
    env.execute()


def http_for_https(env: Environment) -> None:
    """A task with an https base URL for a server without TLS."""
    server = env.canned(Answer())
    env.connect(host=server.url.replace("http", "https"), extra={"timeout": 1})
    env.execute()


def client_call(method: str, *arguments: Any, profile: str = "v0.8", **options: Any) -> Case:
    """A call of a client method on an emulator."""

    def run(env: Environment) -> None:
        extra = LEGACY if profile == "v0.8-legacy" else {}
        env.emulator(profile, extra=extra)
        env.call(method, *arguments, **options)

    return run


def duplicate_run_id(env: Environment) -> None:
    """Execute twice with the same run ID."""
    env.emulator()
    for _ in range(2):
        env.call("execute_workflow", "echo_plain", run_id="my-run-1")


def resume_twice(env: Environment) -> None:
    """Answer a pause twice."""
    sim = env.emulator()
    env.call("execute_workflow", "paused", {"message": "this"}, async_execution=True, run_id="my-run-1")
    context_id = sim.runs[0].context_id
    for _ in range(2):
        env.call("resume_workflow_run", "paused", "my-run-1", context_id=context_id, input_data={"approved": True})


def resume_after_answer(env: Environment) -> None:
    """Resume a run whose pause was answered in Sim."""
    from airflow_provider_sim.operators.runs import SimResumeRunOperator

    sim = env.emulator()
    env.call("execute_workflow", "paused", {"message": "this"}, async_execution=True, run_id="my-run-1")
    sim.resume("my-run-1", {"approved": False})
    SimResumeRunOperator(task_id="t", workflow_id="paused", run_id="my-run-1").execute(_context())


def event_trigger_for_pauses(env: Environment) -> None:
    """Create an event trigger for a status that isn't terminal."""
    from airflow_provider_sim.triggers.events import SimRunEventTrigger

    env.server = None
    SimRunEventTrigger(workflow_ids=["echo_plain"], statuses=["paused"])


def failed_batch(env: Environment) -> None:
    """Run a batch with one input, whose run fails."""
    from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator

    env.emulator()
    SimExecuteWorkflowBatchOperator(
        task_id="t", workflow_id="failing", inputs=[{"message": "x"}], poll_interval=0.1
    ).execute(_context())


def failed_deployment(env: Environment) -> None:
    """Deploy a workflow whose activation fails."""
    from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator

    env.emulator().state.workflows["undeployed"].activation_error = "Webhook registration failed"
    SimDeployWorkflowOperator(task_id="t", workflow_id="undeployed").execute(_context())


def v1_rate_limit(env: Environment) -> None:
    """Read a workflow while the rate limit of v1 is exceeded."""
    empty_bucket("endpoint")(env.emulator(extra=LEGACY))
    env.call("get_workflow", "echo_plain")


ASYNC = {"async_execution": True, "poll_interval": 0.01}
CIRCULAR: dict[str, Any] = {}
CIRCULAR["again"] = CIRCULAR
CHUNK = '{"blockId":"b","chunk":"Once upon"}'

GROUPS: dict[str, dict[str, Case]] = {
    "Before the request is sent": {
        "`workflow_id` is empty": task(""),
        "input isn't JSON": task(input={"day": date(2026, 1, 31)}),
        "input is text, not an object": task(input="hi"),
        "input contains itself": task(input=CIRCULAR),
        "input has an undeclared field, `check_input='fail'`": task(input={"massage": "hi"}, check_input="fail"),
        "input over 10 MiB": task(input={"text": "x" * 11_000_000}),
        "input has a control field of the legacy API": task(input={"stream": True}, connection={"extra": LEGACY}),
        "contradictory arguments": task(stream=True, wait_for_completion=False),
        "event trigger for a status that isn't terminal": event_trigger_for_pauses,
        "`run_id` of a sensor is invalid": client_call("get_workflow_run", "echo_plain", "../jobs"),
        "unknown connection ID": task(sim_conn_id="sim_prod"),
        "connection of another type": connection_task(conn_type="http"),
        "connection without an API key": connection_task(password=""),
        "API key in the login field": connection_task(password="", login=KEY),
        "API key with a line break": connection_task(password=f"{KEY}\n{KEY}"),
        "extra isn't an object": connection_task(extra='["timeout", 60]'),
        "base URL with another scheme": connection_task(host="ftp://sim.example.com"),
        "malformed base URL": connection_task(host="http://sim.example.com:port"),
    },
    "Connection errors": {
        "unknown host name": unreachable("http://sim.invalid"),
        "connection refused": unreachable(f"http://127.0.0.1:{closed_port()}"),
        "untrusted certificate": untrusted,
        "https to an http port": http_for_https,
        "connection closed without a response": canned_task(Answer(silent=True)),
        "connection closed during the response": canned_task(Answer(200, b'{"data": {"runId": "r"}}', cut=9)),
        "connection closed on an asynchronous start": canned_task(Answer(silent=True), **ASYNC),
        "response timeout": canned_task(("/execute", Answer(delay=30)), ("/", Answer(silent=True)), timeout=0.2),
    },
    "Responses of proxies and other servers": {
        "redirect": canned_task(
            Answer(308, b"", {"location": "https://sim.example.com/api/v2/workflows/wf-1/execute"})
        ),
        "redirect to a login page": canned_task(Answer(302, b"", {"location": "https://sso.example.com/login?next=x"})),
        "web page instead of JSON": canned_task(page(200, "Log in")),
        "truncated JSON": canned_task(Answer(200, b'{"data": {"runId": "r", "sta')),
        "empty response": canned_task(Answer(200)),
        "JSON of another application": canned_task(Answer(200, {"hello": "world"})),
        "404: page of another site": canned_task(page(404, "Not found"), api_version="auto"),
        "413: size limit of a proxy": canned_task(page(413, "Too large"), input={"text": "x" * 3_000_000}),
        "429: rate limit of a proxy": canned_task(page(429, "Slow down")),
        "502: error page of a proxy": canned_task(page(502, "Bad Gateway")),
    },
    "Requests that Sim rejects": {
        "400: invalid field": canned_task(
            v2(400, "BAD_REQUEST", "Invalid input", [{"path": ["input"], "message": "expected record"}])
        ),
        "401: invalid API key": task(connection={"password": "sk-sim-wrong"}),
        "401 on the legacy API (also sent while Sim can't read its keys)": task(
            connection={"password": "sk-sim-wrong", "extra": LEGACY}
        ),
        "402: usage limit reached": emulated(exceed_usage_limit),
        "403: not deployed": task("undeployed"),
        "403: API key of another workspace": task(
            connection={"password": "sk-sim-emulator-other-user-key", "extra": LEGACY}
        ),
        "403: personal API keys disabled": emulated(reject_personal_keys),
        "404: unknown workflow": task("nowhere"),
        "404: unknown run": client_call("get_workflow_run", "echo_plain", "airflow-1"),
        "404: v2 API disabled": task(profile="v0.8-legacy", connection={"extra": {"api_version": "v2"}}),
        "v2 feature, v2 API disabled": client_call("list_workflow_runs", "echo_plain", profile="v0.8-legacy"),
        "server older than v0.5.44": canned_task(
            Answer(202, {"success": True, "taskId": "task_1", "status": "queued"}), api_version="legacy", **ASYNC
        ),
        "409: duplicate run ID": duplicate_run_id,
        "409: pause already answered": resume_twice,
        "pause answered by another user": resume_after_answer,
        "413: size limit of Sim": canned_task(v2(413, "PAYLOAD_TOO_LARGE", "Request body is too large")),
    },
    "Rate limits and overload": {
        "429: API requests per key": emulated(empty_bucket("endpoint")),
        "429: API requests per IP address": emulated(exhaust_address_limit),
        "429: executions per minute": emulated(empty_bucket("sync")),
        "429: concurrent runs": emulated(set_limits(concurrent_runs=0), **ASYNC),
        "429: server capacity": emulated(set_limits(admission_gate=0)),
        "429 of the v1 API": v1_rate_limit,
        "429 legacy: executions per minute": emulated(empty_bucket("sync"), connection={"extra": LEGACY}),
        "429 legacy: concurrent runs": emulated(set_limits(concurrent_runs=0), connection={"extra": LEGACY}),
        "429 legacy: server capacity": emulated(set_limits(admission_gate=0), connection={"extra": LEGACY}),
        "429 legacy: rate limit of a model in the run": canned_task(
            Answer(429, {"success": False, "error": "Agent: rate limit of the model reached", "output": {}}),
            api_version="legacy",
        ),
        "429 legacy: status of a Response block": task("status429", connection={"extra": LEGACY}),
        "500: not queued": canned_task(v2(500, "INTERNAL_ERROR", "Failed to queue async execution"), **ASYNC),
        "500: internal error": canned_task(v2(500, "INTERNAL_ERROR", "Something broke")),
        "503: temporarily unavailable": canned_task(
            v2(503, "SERVICE_UNAVAILABLE", "Usage admission is temporarily unavailable. Please retry.", retry_after="5")
        ),
        "503: enqueueing not confirmed": canned_task(
            v2(
                503,
                "SERVICE_UNAVAILABLE",
                "Async execution queue acceptance could not be confirmed",
                {"code": "ASYNC_ENQUEUE_AMBIGUOUS", "runId": "airflow-1"},
            ),
            **ASYNC,
        ),
    },
    "Streams": {
        "stream ends before the run": canned_task(stream(CHUNK), stream=True),
        "connection lost while streaming": canned_task(stream(CHUNK, content_length="1000"), stream=True),
        "malformed stream": canned_task(stream("hello"), stream=True),
        "run fails while streaming": task("failing", input={"message": "x"}, stream=True),
    },
    "Failed, cancelled and paused runs": {
        "run failed": task("failing", input={"message": "x"}, **ASYNC),
        "run exceeded `run_timeout`": task("slow", input={"seconds": 60}, run_timeout=1, **ASYNC),
        "run was cancelled": emulated(cancel_on_start, "slow", input={"seconds": 60}, **ASYNC),
        "run is paused, `on_paused='fail'`": task("paused", input={"message": "this"}, on_paused="fail", **ASYNC),
        "output larger than `max_output_bytes`": task(input={"message": "x" * 100}, max_output_bytes=50),
        "output with a character that XComs can't store": emulated(
            lambda sim: sim.workflow("nul")(lambda given: {"text": "\0"}), "nul"
        ),
        "output with a value over 8 MiB": task("large", input={"count": 9000}, check_input="off"),
        "selected output doesn't exist": task(
            "streaming", input={"message": "x"}, stream=True, selected_outputs="Agnet.content"
        ),
        "run of a batch failed": failed_batch,
        "run exceeded `timeout`": task("slow", input={"seconds": 60}, timeout=timedelta(seconds=0.1), **ASYNC),
    },
    "Deployments": {
        "deployment fails": failed_deployment,
    },
}
"""Cases by group and label."""


def run_cases() -> Iterator[tuple[str, list[CaseResult]]]:
    """Run all cases, group by group."""
    from airflow_provider_sim.client.sync_client import SimClient

    former_sleep, former_connection = SimClient._sleep, os.environ.get("AIRFLOW_CONN_SIM_DEFAULT")
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Environment(Path(folder))) as env:

        def count(seconds: float) -> None:
            env.sleeps += 1

        SimClient._sleep = staticmethod(count)
        try:
            for group, cases in GROUPS.items():
                yield group, [_run_case(env, case, run) for case, run in cases.items()]
        finally:
            SimClient._sleep = former_sleep
            os.environ.pop("AIRFLOW_CONN_SIM_DEFAULT")
            if former_connection is not None:
                os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = former_connection


def connection_tests() -> dict[str, str]:
    """Return the message of the connection test for each invalid connection."""
    from airflow_provider_sim.client.server_facts import facts_about
    from airflow_provider_sim.hooks.sim import SimHook

    messages = {}
    with SimEmulator(api_key=KEY) as sim, bad_connections(sim) as cases:
        for case in cases:
            facts_about.cache_clear()
            os.environ["AIRFLOW_CONN_SIM_TESTED"] = json.dumps(case.connection)
            _, message = SimHook("sim_tested").test_connection()
            messages[case.label] = _stable(message)
    os.environ.pop("AIRFLOW_CONN_SIM_TESTED")
    return messages


def _run_case(env: Environment, case: str, run: Case) -> CaseResult:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from airflow_provider_sim.client.server_facts import facts_about
    from airflow_provider_sim.exceptions import SimError

    facts_about.cache_clear()
    env.sleeps = 0
    try:
        run(env)
    except SimError as error:
        starts, runs = env.counts()
        client = "" if not env.sleeps else "client, after a lookup of the run" if starts == 1 else "client"
        airflow = "" if isinstance(error, AirflowFailException) else "Airflow"
        retried_by = ", ".join(filter(None, [client, airflow])) or "none"
        return CaseResult(
            case, type(error).__name__, error.outcome.value, retried_by, starts, runs, _stable(str(error))
        )
    starts, runs = env.counts()
    return CaseResult(case, None, "ran", "none", starts, runs, "The task succeeds; its output has the status 429.")


_CHANGING = {
    r"127\.0\.0\.1:\d+": "127.0.0.1:3000",
    r"airflow-[0-9a-f]{8}-[0-9a-f-]{27}": "airflow-0123",
    r"request [0-9a-f]{8}\b": "request 89ab",
    r"\[Errno -\d+\] [^)]*|-\d+ (Name or service|Temporary failure|No address)[^)]*": "Name or service not known",
    r"_ssl\.c:\d+": "_ssl.c",
    r"self.signed certificate": "self-signed certificate",
    r"\[SSL[^]]*\] (wrong version number|record layer failure)": "wrong version number",
    r"(?<=asks to wait )(5[0-9]|60)\b": "60",
}


def _stable(message: str) -> str:
    """Replace IDs, ports and error texts of the operating system that differ between runs or machines."""
    for pattern, replacement in _CHANGING.items():
        message = re.sub(pattern, replacement, message)
    return message


# --- output --------------------------------------------------------------------------------------------------------


def markdown(groups: Iterable[tuple[str, list[CaseResult]]]) -> str:
    """Return the tables of ``docs/reference/errors.md``."""
    lines = []
    for group, results in groups:
        lines += ["", f"### {group}", "", "| case | error | request | retried by | message |", "| --- " * 5 + "|"]
        for result in results:
            error = f"`{result.error}`" if result.error else "none"
            cells = (result.case, error, SERVER_SIDE[result.outcome], result.retried_by, _cell(result.message))
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "### Connection test", "", "| case | message |", "| --- | --- |"]
    lines += [f"| {label} | {_cell(message)} |" for label, message in connection_tests().items()]
    return "\n".join(lines).strip()


def _cell(message: str) -> str:
    return message.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    """Print the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/reference/errors.md")
    parser.add_argument("--update", action="store_true", help="write the tables to docs/reference/errors.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"AIRFLOW_HOME": home, "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL"}
        if options.update:
            before, _, rest = DOCS.read_text().partition(BEGIN)
            DOCS.write_text(f"{before}{BEGIN}\n\n{markdown(run_cases())}\n\n{END}{rest.partition(END)[2]}")
        elif options.markdown:
            print(markdown(run_cases()))
        else:
            for group, results in run_cases():
                print(f"\n{group}\n")
                for result in results:
                    facts = f"request: {SERVER_SIDE[result.outcome]}; retried by: {result.retried_by}"
                    print(f"- {result.case}: {result.error or 'no error'} ({facts})\n  {result.message}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
