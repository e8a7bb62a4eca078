"""A real Airflow in a separate directory, with the example DAGs and a Sim connection to an emulator.

The demo shows its reports as a table; the tests run it as a command that prints them as JSON:
``python -m scripts.local_airflow --home FOLDER --sim-url URL --sim-key KEY DAG_ID...``. Without a DAG it only creates
the directory, to be copied and used with ``--keep``. :mod:`scripts.real_airflow` runs DAGs as in production.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from packaging.version import Version

REPO = Path(__file__).resolve().parent.parent
EXAMPLE_DAGS = REPO / "example_dags"

PATIENCE = 300.0
"""Timeout in seconds for the start of Airflow and for a DAG run."""
ANSWER_AFTER = timedelta(seconds=2)
"""Airflow 3.3.2 mishandles answers that arrive before all of its components have processed the deferral."""


@dataclass(frozen=True)
class TaskReport:
    """Result of a task instance.

    :param output: its XCom ``return_value``.
    :param seconds: from its start to its end.
    """

    dag_id: str
    task_id: str
    map_index: int
    mode: str
    state: str
    run_id: str | None
    run_url: str | None
    output: Any
    seconds: float | None


def environment(home: Path, *, sim_url: str, sim_key: str, dags: Path = EXAMPLE_DAGS, **extra: Any) -> dict[str, str]:
    """Return the environment variables of an Airflow in this directory, with the connection ``sim_default``."""
    port = urlsplit(sim_url).port  # the connection test of Airflow 3.3.2 requires one
    connection = {"conn_type": "sim", "host": sim_url, "port": port, "password": sim_key, "extra": extra}
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),  # before 3.3, dag.test() requires it, too
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__DAG_PROCESSOR__DISABLE_BUNDLE_VERSIONING": "True",
        "AIRFLOW_CONN_SIM_DEFAULT": json.dumps(connection),
        # pydantic-ai's test model calls each tool once and returns the results.
        "AIRFLOW_CONN_PYDANTICAI_DEFAULT": json.dumps({"conn_type": "pydanticai", "extra": {"model": "test"}}),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
    }


def create(home: Path) -> None:
    """Recreate the directory with an empty metadata database; requires the environment variables.

    :raises subprocess.CalledProcessError: the migration failed; the error has its output.
    """
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, text=True)


COMPONENTS = (
    ("api-server",),
    ("scheduler", "--skip-serve-logs"),  # its log server would listen on all interfaces
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
)


@contextlib.contextmanager
def components(port: int, log: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run all components of Airflow; yield the process of the API server.

    :param port: port of the API server and its UI, which need no login.
    :param log: file for the output of the components.
    :param settings: further environment variables.
    :raises RuntimeError: Airflow didn't start.
    """
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        **settings,
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output, contextlib.ExitStack() as stack:
        api_server, *_ = [
            stack.enter_context(running([sys.executable, "-m", "airflow", *words], environment, output))
            for words in COMPONENTS
        ]
        if not is_up(f"{url}/api/v2/version", api_server):
            raise RuntimeError(f"Airflow did not start; see {log}")
        yield api_server


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], output: TextIO) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for a ``with`` block; terminate it and its children afterward."""
    process = subprocess.Popen(
        command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port(wanted: int = 0) -> int:
    """Return a free port of 127.0.0.1, preferably the given one."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port")


def is_up(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a URL responds; return False on a timeout or if the process has exited."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return True
        time.sleep(1)
    return False


def run_dag(dag_id: str, logical_date: datetime | None = None) -> list[TaskReport]:
    """Run a DAG in this process and return reports of its tasks in the order of their start.

    :param logical_date: of the DAG run; default: now.
    :raises LookupError: the DAG doesn't exist, or a DAG file can't be parsed.
    """
    dag = _dag(dag_id)
    named = "logical_date" if Version("3") <= Version(version("apache-airflow")) else "execution_date"
    with started_api(), _approver():
        return _reports(dag, dag.test(**({} if logical_date is None else {named: logical_date})))


@contextlib.contextmanager
def started_api() -> Iterator[None]:
    """Make ``dag.test()`` of Airflow 3.0 to 3.2 wait for its in-process API server, and start only one.

    Airflow 3.3 caches the server. Before, each task starts one, which costs seconds and can deadlock when a server that
    nothing refers to is garbage-collected.
    """
    if not Version("3") <= Version(version("apache-airflow")) < Version("3.3"):
        yield
        return
    from unittest.mock import patch

    from airflow.sdk.execution_time import supervisor

    start = functools.partial(_api_server, supervisor.in_process_api_server)
    with patch.object(supervisor, "in_process_api_server", start):
        yield


@functools.lru_cache(maxsize=1)
def _api_server(start: Callable[[], Any]) -> Any:
    api = start()
    assert api.transport is not None  # reading it starts the server, in a thread
    until = time.monotonic() + PATIENCE
    while not hasattr(api.app.state, "svcs_registry") and time.monotonic() < until:
        time.sleep(0.01)
    return api


@contextlib.contextmanager
def _approver() -> Iterator[None]:
    """Answer human-in-the-loop tasks as in Airflow's UI, with the first option and a comment."""
    try:
        import airflow.models.hitl
        import airflow.models.trigger  # noqa: F401
        from airflow.models import import_all_models
    except ImportError:  # Airflow before 3.1
        yield
        return
    import_all_models()  # the first query would import them, and importing them in two threads at once can deadlock

    ends = threading.Event()

    def approve() -> None:
        while not ends.wait(1):
            _approve_all()

    thread = threading.Thread(target=approve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def _approve_all() -> None:
    """Answer tasks that have waited long enough; again if the end of a task has overwritten the answer."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.trigger import handle_event_submit
    from airflow.triggers.base import TriggerEvent
    from airflow.utils import timezone
    from airflow.utils.session import create_session
    from sqlalchemy import select

    now = timezone.utcnow()
    with create_session() as session:
        for asked in session.scalars(select(HITLDetail).where(HITLDetail.created_at < now - ANSWER_AFTER)):
            ti = asked.task_instance
            if str(ti.state) != "awaiting_input":
                continue
            asked.chosen_options = asked.options[:1]
            asked.params_input = dict.fromkeys(asked.params, "by all means")
            asked.responded_at = now
            handle_event_submit(TriggerEvent(asked.as_resume_event_payload()), task_instance=ti, session=session)


def _dag(dag_id: str) -> Any:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag

    bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors or dag_id not in bag.dags:
        raise LookupError(f"DAG {dag_id!r} can't be run: {bag.import_errors or 'there is none of this name'}")
    return bag.dags[dag_id]


def _reports(dag: Any, finished: Any) -> list[TaskReport]:
    instances = sorted(finished.get_task_instances(), key=lambda ti: (ti.start_date is None, ti.start_date))
    return [_report(dag.get_task(ti.task_id), ti) for ti in instances]


def _report(task: Any, ti: Any) -> TaskReport:
    def xcom(key: str) -> Any:
        return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)

    mode = mode_of(task)
    return TaskReport(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        map_index=ti.map_index,
        mode=mode,
        state=str(ti.state),
        run_id=None if mode == "agent" else xcom("run_id"),  # an agent's is not of Sim
        run_url=xcom("run_url"),
        output=xcom("return_value"),
        seconds=(ti.end_date - ti.start_date).total_seconds() if ti.end_date and ti.start_date else None,
    )


def mode_of(task: Any) -> str:
    """Return the mode of a Sim task."""
    arguments = {**vars(task), **getattr(task, "partial_kwargs", {})}
    kind = task.task_type
    if kind == "SimJobSensor":
        return "sensor, deferred" if arguments.get("deferrable") else f"sensor, {arguments.get('mode', 'poke')}"
    if kind == "SimExecuteWorkflowBatchOperator":
        return "batch, deferred" if arguments.get("deferrable") else "batch"
    if kind == "_AgentDecoratedOperator":
        return "agent"
    if kind != "SimExecuteWorkflowOperator":
        return "Python"
    if arguments.get("stream"):
        return "streamed"
    if not arguments.get("wait_for_completion", True):
        return "asynchronous, not waiting"
    if arguments.get("deferrable"):
        return "asynchronous, deferred"
    return "asynchronous" if arguments.get("async_execution") else "sync"


def main(arguments: list[str] | None = None) -> int:
    """Run DAGs and print a JSON list of their tasks' reports on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--sim-url", required=True)
    parser.add_argument("--sim-key", required=True)
    parser.add_argument("--dags", type=Path, default=EXAMPLE_DAGS)
    parser.add_argument("--keep", action="store_true", help="use the folder as it is")
    parser.add_argument("--logical-date", type=datetime.fromisoformat, help="of the DAG runs (default: now)")
    parser.add_argument("dag_ids", metavar="DAG_ID", nargs="*")
    options = parser.parse_args(arguments)
    faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)  # dag.test() waits for ever
    os.environ.update(environment(options.home, sim_url=options.sim_url, sim_key=options.sim_key, dags=options.dags))
    if not options.keep:
        create(options.home)
    reports = [report for dag_id in options.dag_ids for report in run_dag(dag_id, options.logical_date)]
    print(json.dumps([asdict(report) for report in reports], default=str))
    faulthandler.cancel_dump_traceback_later()
    return 0


if __name__ == "__main__":
    sys.exit(main())
