"""Show what becomes of bad input: every case is really run, by the operator where a DAG author would.

``python -m scripts.bad_input`` runs them against the emulator, or a server that answers badly on purpose, and shows
what the DAG author is told; with ``--markdown`` as ``docs/errors.md`` holds it, with ``--update`` written there.
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

DOCS = REPO / "docs" / "errors.md"
BEGIN, END = "<!-- python -m scripts.bad_input --markdown -->", "<!-- end -->"
KEY = "sk-sim-emulator-personal-key"

SIM_HAS = {
    "never sent": "seen nothing",
    "refused": "done nothing",
    "unknown": "maybe started it",
    "ran": "run it",
}
"""What the server has done, by an error's outcome."""


@dataclass(frozen=True)
class Told:
    """What came of a case.

    :param error: the class of the error; None if there was none.
    :param outcome: what it says that the server has done.
    :param retried: who tries again by itself.
    :param starts: how many requests to start a run the server got.
    :param runs: how many runs it started; None where the server is none that could tell.
    """

    what: str
    error: str | None
    outcome: str
    retried: str
    starts: int
    runs: int | None
    message: str


# --- what a case is run on -----------------------------------------------------------------------------------------


@dataclass
class Bench:
    """One server at a time, the connection ``sim_default`` to it, and tasks that use it.

    :ivar folder: for certificates.
    :ivar naps: how often the client would have waited to try again; nobody does here.
    """

    folder: Path
    server: SimEmulator | CannedServer | None = None
    naps: int = 0
    _sims: dict[str, SimEmulator] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def emulator(self, profile: str = "v0.8", **connection: Any) -> SimEmulator:
        """Connect to an emulator as new."""
        if profile not in self._sims:
            self._sims[profile] = self._stack.enter_context(SimEmulator(profile=profile, api_key=KEY))
        self.server = sim = self._sims[profile]
        sim.reset()
        self.connect(host=sim.url, **connection)
        return sim

    def answers(self, *answers: Answer | tuple[str, Answer], api_version: str = "v2") -> CannedServer:
        """Connect to a server that gives these answers."""
        self.server = server = self._stack.enter_context(canned(*answers))
        self.connect(host=server.url, extra={"api_version": api_version})
        return server

    def tls(self) -> CannedServer:
        """Connect to a server with a certificate that nobody trusts."""
        context = self_signed(self.folder / "server.pem")
        self.server = server = self._stack.enter_context(CannedServer(Answer(), tls=context))
        self.connect(host=server.url)
        return server

    def connect(self, *, extra: dict[str, Any] | str | None = None, **fields: Any) -> None:
        """Set the connection ``sim_default``."""
        extras = extra if isinstance(extra, str) else {"workspace_id": "w", **(extra or {})}
        value = {"conn_type": "sim", "password": KEY, **fields, "extra": extras}
        os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = json.dumps(value)

    def start(self, workflow_id: str = "echo_plain", **arguments: Any) -> Any:
        """Execute a SimExecuteWorkflowOperator."""
        from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

        arguments.setdefault("retry_args", {"max_retries": 1})
        return SimExecuteWorkflowOperator(task_id="t", workflow_id=workflow_id, **arguments).execute(_context())

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the hook's client, for what no operator does by itself."""
        from airflow_provider_sim.hooks.sim import SimHook

        with SimHook(retry_args={"max_retries": 1}) as hook:
            return getattr(hook.get_conn(), method)(*arguments, **options)

    def close(self) -> None:
        """Stop all servers."""
        self._stack.close()

    def seen(self) -> tuple[int, int | None]:
        """Requests to start a run that the server got, and runs that it started."""
        if self.server is None:
            return 0, 0
        starts = [seen for seen in self.server.requests if seen.method == "POST" and seen.path.endswith("/execute")]
        if isinstance(self.server, CannedServer):
            return len(starts), None
        return len(starts), sum(run.refused is None for run in self.server.runs)


class _TaskInstance:
    task_id, map_index = "t", -1

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep an XCom."""
        self.xcoms[key] = value

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        """Return an XCom that the task has pushed itself."""
        return self.xcoms.get(key)


def _context() -> Any:
    return {"ti": _TaskInstance()}


# --- cases ---------------------------------------------------------------------------------------------------------

Case = Callable[[Bench], Any]
Prepare = Callable[[SimEmulator], None]
LEGACY = {"api_version": "legacy"}


def task(workflow_id: str = "echo_plain", **arguments: Any) -> Case:
    """A task on today's server."""
    return emulated(lambda sim: None, workflow_id, **arguments)


def emulated(
    prepare: Prepare,
    workflow_id: str = "echo_plain",
    *,
    profile: str = "v0.8",
    connection: dict[str, Any] | None = None,
    **arguments: Any,
) -> Case:
    """A task on a server that was prepared for it."""

    def run(bench: Bench) -> None:
        prepare(bench.emulator(profile, **(connection or {})))
        bench.start(workflow_id, **arguments)

    return run


def answered(*answers: Answer | tuple[str, Answer], api_version: str = "v2", **arguments: Any) -> Case:
    """A task on a server that gives these answers."""

    def run(bench: Bench) -> None:
        bench.answers(*answers, api_version=api_version)
        bench.start("wf-1", **arguments)

    return run


def connected(**fields: Any) -> Case:
    """A task with a connection that can't work."""

    def run(bench: Bench) -> None:
        bench.server = None
        bench.connect(**fields)
        bench.start()

    return run


def v2(status: int, code: str, message: str, details: Any = None, **headers: str) -> Answer:
    """An error answer of the v2 API."""
    error = {"code": code, "message": message, **({} if details is None else {"details": details})}
    return Answer(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


def legacy(status: int, message: str, **more: Any) -> Answer:
    """An error answer of the legacy API."""
    return Answer(status, {"error": message, **more})


def page(status: int, words: str) -> Answer:
    """A web page."""
    return Answer(status, f"<!DOCTYPE html><title>{words}</title>".encode(), {"content-type": "text/html"})


def stream(*frames: str, **headers: str) -> Answer:
    """Server-sent events."""
    body = "".join(f"data: {frame}\n\n" for frame in frames).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, body, {"content-type": "text/event-stream", **names})


def spent(sim: SimEmulator) -> None:
    """Use the account's money up."""
    sim.state.limits.usage, sim.state.limits.usage_limit = 10.63, 1.0


def emptied(name: str) -> Prepare:
    """Empty a bucket of the plan."""

    def prepare(sim: SimEmulator) -> None:
        setattr(sim.state.limits, f"{name}_per_minute", 0)
        sim.state.limits.clear()

    return prepare


def address_used_up(sim: SimEmulator) -> None:
    """Send as many requests as v2 takes from one address."""
    while sim.state.limits.address.take():
        pass


def limited(**limits: int) -> Prepare:
    """Set limits."""

    def prepare(sim: SimEmulator) -> None:
        for name, value in limits.items():
            setattr(sim.state.limits, name, value)

    return prepare


def no_personal_keys(sim: SimEmulator) -> None:
    """Let the workspace take workspace keys only."""
    sim.state.keys.personal_keys_allowed = False


def cancelled_in_sim(sim: SimEmulator) -> None:
    """Cancel every run of ``slow`` once it is started."""
    sim.on_start("slow", lambda run: sim.cancel(run.run_id))


def unreachable(host: str) -> Case:
    """A task for a server that isn't there."""
    return connected(host=host, extra={"api_version": "v2"})


def untrusted(bench: Bench) -> None:
    """A certificate that nobody trusts."""
    bench.tls()
    bench.start()


def http_for_https(bench: Bench) -> None:
    """A server that speaks no TLS, under https."""
    server = bench.answers(Answer())
    bench.connect(host=server.url.replace("http", "https"), extra={"timeout": 1})
    bench.start()


def asked(method: str, *arguments: Any, profile: str = "v0.8", **options: Any) -> Case:
    """A question to an emulator."""

    def run(bench: Bench) -> None:
        extra = LEGACY if profile == "v0.8-legacy" else {}
        bench.emulator(profile, extra=extra)
        bench.ask(method, *arguments, **options)

    return run


def run_id_used_before(bench: Bench) -> None:
    """An execution under a run id of the caller's own, twice."""
    bench.emulator()
    for _ in range(2):
        bench.ask("execute_workflow", "echo_plain", run_id="my-run-1")


def answered_before(bench: Bench) -> None:
    """A pause that is answered a second time."""
    sim = bench.emulator()
    bench.ask("execute_workflow", "paused", {"message": "this"}, async_execution=True, run_id="my-run-1")
    context_id = sim.runs[0].context_id
    for _ in range(2):
        bench.ask("resume_workflow_run", "paused", "my-run-1", context_id=context_id, input={"approved": True})


def answered_by_somebody_else(bench: Bench) -> None:
    """Answer, by the operator, a run that somebody else has answered."""
    from airflow_provider_sim.operators.runs import SimResumeRunOperator

    sim = bench.emulator()
    bench.ask("execute_workflow", "paused", {"message": "this"}, async_execution=True, run_id="my-run-1")
    sim.resume("my-run-1", {"approved": False})
    SimResumeRunOperator(task_id="t", workflow_id="paused", run_id="my-run-1").execute(_context())


def watched_for_pauses(bench: Bench) -> None:
    """A watcher for a status that is no end."""
    from airflow_provider_sim.triggers.events import SimRunEventTrigger

    bench.server = None
    SimRunEventTrigger(workflow_ids=["echo_plain"], statuses=["paused"])


def failed_in_a_batch(bench: Bench) -> None:
    """A batch of one input, whose run fails."""
    from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator

    bench.emulator()
    SimExecuteWorkflowBatchOperator(
        task_id="t", workflow_id="failing", inputs=[{"message": "x"}], poll_interval=0.1
    ).execute(_context())


def deployed_in_vain(bench: Bench) -> None:
    """Deploy a workflow whose deployment Sim can't make live."""
    from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator

    bench.emulator().state.workflows["undeployed"].activation_error = "Webhook registration failed"
    SimDeployWorkflowOperator(task_id="t", workflow_id="undeployed").execute(_context())


def looked_at_with_rates_used_up(bench: Bench) -> None:
    """A question to v1, whose bucket is empty."""
    emptied("endpoint")(bench.emulator(extra=LEGACY))
    bench.ask("get_workflow", "echo_plain")


ASYNC = {"async_execution": True, "poll_interval": 0.01}
ENDLESS: dict[str, Any] = {}
ENDLESS["again"] = ENDLESS
CHUNK = '{"blockId":"b","chunk":"Once upon"}'

GROUPS: dict[str, dict[str, Case]] = {
    "Found before anything is sent": {
        "`workflow_id` is empty": task(""),
        "input that is no JSON": task(input={"day": date(2026, 1, 31)}),
        "input that is a text": task(input="hi"),
        "input that contains itself": task(input=ENDLESS),
        "input with another field, and `check_input='fail'`": task(input={"massage": "hi"}, check_input="fail"),
        "input over 10 MiB": task(input={"text": "x" * 11_000_000}),
        "input with a field that the legacy API obeys": task(input={"stream": True}, connection={"extra": LEGACY}),
        "arguments that contradict each other": task(stream=True, wait_for_completion=False),
        "`check_usage_before` is no percentage": task(check_usage_before="most"),
        "more is used than `check_usage_before`": emulated(spent, check_usage_before=90),
        "a watcher for a status that is no end": watched_for_pauses,
        "`run_id` of a sensor is no id": asked("get_workflow_run", "echo_plain", "../jobs"),
        "unknown connection id": task(sim_conn_id="sim_prod"),
        "connection of another type": connected(conn_type="http"),
        "connection without a key": connected(password=""),
        "key in the login field": connected(password="", login=KEY),
        "key with a line break": connected(password=f"{KEY}\n{KEY}"),
        "extra that is no object": connected(extra='["timeout", 60]'),
        "base URL of another protocol": connected(host="ftp://sim.example.com"),
        "base URL that can't be read": connected(host="http://sim.example.com:port"),
    },
    "The server can't be reached, or hangs up": {
        "unknown host name": unreachable("http://sim.invalid"),
        "nobody listens": unreachable(f"http://127.0.0.1:{closed_port()}"),
        "certificate that isn't trusted": untrusted,
        "https where http is spoken": http_for_https,
        "hang-up without a word": answered(Answer(silent=True)),
        "hang-up in mid-answer": answered(Answer(200, b'{"data": {"runId": "r"}}', cut=9)),
        "hang-up on an asynchronous start": answered(Answer(silent=True), **ASYNC),
        "no answer in time": answered(("/execute", Answer(delay=30)), ("/", Answer(silent=True)), timeout=0.2),
    },
    "The answer isn't Sim's": {
        "redirect": answered(Answer(308, b"", {"location": "https://sim.example.com/api/v2/workflows/wf-1/execute"})),
        "redirect to a login page": answered(Answer(302, b"", {"location": "https://sso.example.com/login?next=x"})),
        "a web page instead of JSON": answered(page(200, "Log in")),
        "JSON that is cut short": answered(Answer(200, b'{"data": {"runId": "r", "sta')),
        "an empty answer": answered(Answer(200)),
        "another program's JSON": answered(Answer(200, {"hello": "world"})),
        "404: another site's page": answered(page(404, "Not found"), api_version="auto"),
        "413: a proxy's limit": answered(page(413, "Too large"), input={"text": "x" * 3_000_000}),
        "429: a proxy's limit": answered(page(429, "Slow down")),
        "502: a proxy's page": answered(page(502, "Bad Gateway")),
    },
    "Sim refuses": {
        "400: a field is wrong": answered(
            v2(400, "BAD_REQUEST", "Invalid input", [{"path": ["input"], "message": "expected record"}])
        ),
        "401: wrong key": task(connection={"password": "sk-sim-wrong"}),
        "401 on the legacy API, which says it also while its keys can't be read": task(
            connection={"password": "sk-sim-wrong", "extra": LEGACY}
        ),
        "402: usage limit": emulated(spent),
        "403: not deployed": task("undeployed"),
        "403: another workspace's key": task(
            connection={"password": "sk-sim-emulator-other-user-key", "extra": LEGACY}
        ),
        "403: personal keys are off": emulated(no_personal_keys),
        "404: unknown workflow": task("nowhere"),
        "404: unknown run": asked("get_workflow_run", "echo_plain", "airflow-1"),
        "404: v2 is switched off": task(profile="v0.8-legacy", connection={"extra": {"api_version": "v2"}}),
        "what takes v2, where it is off": asked("list_workflow_runs", "echo_plain", profile="v0.8-legacy"),
        "a server before v0.5.44": answered(
            Answer(202, {"success": True, "taskId": "task_1", "status": "queued"}), api_version="legacy", **ASYNC
        ),
        "409: run id used before": run_id_used_before,
        "409: pause answered before": answered_before,
        "a pause that somebody else has answered": answered_by_somebody_else,
        "413: Sim's own limit": answered(v2(413, "PAYLOAD_TOO_LARGE", "Request body is too large")),
    },
    "Sim has too much to do": {
        "429: requests of this key": emulated(emptied("endpoint")),
        "429: requests from this address": emulated(address_used_up),
        "429: executions per minute": emulated(emptied("sync")),
        "429: runs at once": emulated(limited(concurrent_runs=0), **ASYNC),
        "429: the server's capacity": emulated(limited(admission_gate=0)),
        "429 of v1": looked_at_with_rates_used_up,
        "429 legacy: executions per minute": emulated(emptied("sync"), connection={"extra": LEGACY}),
        "429 legacy: runs at once": emulated(limited(concurrent_runs=0), connection={"extra": LEGACY}),
        "429 legacy: the server's capacity": emulated(limited(admission_gate=0), connection={"extra": LEGACY}),
        "429 legacy: a model inside the run": answered(
            Answer(429, {"success": False, "error": "Agent: rate limit of the model reached", "output": {}}),
            api_version="legacy",
        ),
        "429 legacy: the workflow's own answer": task("status429", connection={"extra": LEGACY}),
        "500: not queued": answered(v2(500, "INTERNAL_ERROR", "Failed to queue async execution"), **ASYNC),
        "500: failed somehow": answered(v2(500, "INTERNAL_ERROR", "Something broke")),
        "503: not at the moment": answered(
            v2(503, "SERVICE_UNAVAILABLE", "Usage admission is temporarily unavailable. Please retry.", retry_after="5")
        ),
        "503: queued or not": answered(
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
        "a stream without its end": answered(stream(CHUNK), stream=True),
        "a stream that breaks": answered(stream(CHUNK, content_length="1000"), stream=True),
        "a stream of something else": answered(stream("hello"), stream=True),
        "a run that fails while streaming": task("failing", input={"message": "x"}, stream=True),
    },
    "The run came to no good end": {
        "it failed": task("failing", input={"message": "x"}, **ASYNC),
        "it took longer than `run_timeout`": task("slow", input={"seconds": 60}, run_timeout=1, **ASYNC),
        "it was cancelled": emulated(cancelled_in_sim, "slow", input={"seconds": 60}, **ASYNC),
        "it waits for a person": task("paused", input={"message": "this"}, on_paused="fail", **ASYNC),
        "its output is over `max_output_bytes`": task(input={"message": "x" * 100}, max_output_bytes=50),
        "its output has a character that no XCom can": emulated(
            lambda sim: sim.workflow("nul")(lambda given: {"text": "\0"}), "nul"
        ),
        "its output has a value over 8 MiB": task("large", input={"count": 9000}, check_input="off"),
        "a selected output that isn't there": task(
            "streaming", input={"message": "x"}, stream=True, selected_outputs="Agnet.content"
        ),
        "it is one of a batch, and failed": failed_in_a_batch,
        "it wasn't over in time": task("slow", input={"seconds": 60}, timeout=timedelta(seconds=0.1), **ASYNC),
    },
    "The deployment came to no good end": {
        "Sim can't make it live": deployed_in_vain,
    },
}
"""By kind, and by what is wrong."""


def run_cases() -> Iterator[tuple[str, list[Told]]]:
    """Run all cases, group by group."""
    from airflow_provider_sim.client.sync_client import SimClient

    kept_sleep, kept = SimClient._sleep, os.environ.get("AIRFLOW_CONN_SIM_DEFAULT")
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Bench(Path(folder))) as bench:

        def nap(seconds: float) -> None:
            bench.naps += 1

        SimClient._sleep = staticmethod(nap)
        try:
            for group, cases in GROUPS.items():
                yield group, [_told(bench, what, run) for what, run in cases.items()]
        finally:
            SimClient._sleep = kept_sleep
            os.environ.pop("AIRFLOW_CONN_SIM_DEFAULT")
            if kept is not None:
                os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = kept


def connections_tested() -> dict[str, str]:
    """What the test of a connection says of each that is wrong."""
    from airflow_provider_sim.client.flows import forget_servers
    from airflow_provider_sim.hooks.sim import SimHook

    said = {}
    with SimEmulator(api_key=KEY) as sim, bad_connections(sim) as cases:
        for case in cases:
            forget_servers()
            os.environ["AIRFLOW_CONN_SIM_TESTED"] = json.dumps(case.connection)
            _, message = SimHook("sim_tested").test_connection()
            said[case.what] = _stable(message)
    os.environ.pop("AIRFLOW_CONN_SIM_TESTED")
    return said


def _told(bench: Bench, what: str, run: Case) -> Told:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from airflow_provider_sim.client.flows import forget_servers
    from airflow_provider_sim.exceptions import SimError

    forget_servers()
    bench.naps = 0
    try:
        run(bench)
    except SimError as error:
        starts, runs = bench.seen()
        client = "" if not bench.naps else "client looks for the run" if starts == 1 else "client"
        airflow = "" if isinstance(error, AirflowFailException) else "Airflow"
        retried = ", ".join(filter(None, [client, airflow])) or "nobody"
        return Told(what, type(error).__name__, error.outcome.value, retried, starts, runs, _stable(str(error)))
    starts, runs = bench.seen()
    return Told(what, None, "ran", "nobody", starts, runs, "The task succeeds; its output has the status 429.")


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
    """A message as it is on every machine: without this run's ids, ports, and the resolver's own words."""
    for pattern, instead in _CHANGING.items():
        message = re.sub(pattern, instead, message)
    return message


# --- showing them --------------------------------------------------------------------------------------------------


def markdown(groups: Iterable[tuple[str, list[Told]]]) -> str:
    """The tables of ``docs/errors.md``."""
    lines = []
    for group, all_told in groups:
        lines += ["", f"### {group}", "", "| | error | Sim has | tried again by | message |", "| --- " * 5 + "|"]
        for told in all_told:
            error = f"`{told.error}`" if told.error else "none"
            cells = (told.what, error, SIM_HAS[told.outcome], told.retried, _cell(told.message))
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "### The test of a connection", "", "| | says |", "| --- | --- |"]
    lines += [f"| {what} | {_cell(message)} |" for what, message in connections_tested().items()]
    return "\n".join(lines).strip()


def _cell(message: str) -> str:
    return message.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    """Print the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="as docs/errors.md holds them")
    parser.add_argument("--update", action="store_true", help="put them there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"AIRFLOW_HOME": home, "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL"}
        if options.markdown:
            print(markdown(run_cases()))
            return 0
        if options.update:
            before, _, rest = DOCS.read_text().partition(BEGIN)
            DOCS.write_text(f"{before}{BEGIN}\n\n{markdown(run_cases())}\n\n{END}{rest.partition(END)[2]}")
            return 0
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        for group, all_told in run_cases():
            table = Table(title=group, title_justify="left", title_style="bold", show_lines=True, expand=True)
            for name, ratio in (("what is wrong", 3), ("error", 4), ("message", 9)):
                table.add_column(name, ratio=ratio, overflow="fold")
            for told in all_told:
                facts = f"{told.error or 'none'}\nSim has {SIM_HAS[told.outcome]}\ntried again by {told.retried}"
                table.add_row(Text(told.what.replace("`", "")), Text(facts), Text(told.message))
            console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
