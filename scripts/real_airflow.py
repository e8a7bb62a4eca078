"""A real Airflow of separate processes (scheduler, API server, triggerers, workers) that tests can kill.

:mod:`scripts.local_airflow` runs tasks in the calling process, which is faster. The metadata database is PostgreSQL if
its server is installed, and all servers listen on 127.0.0.1 only.

The Airflow is that of the Python that runs this module. Airflow 2 runs without a webserver, so :meth:`RealAirflow.api`
requires Airflow 3.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import requests
import sqlalchemy

from scripts import airflow_2, servers
from scripts.local_airflow import REPO

START_PATIENCE = 240.0
"""Seconds, on a machine with other load."""
STOP_PATIENCE = 60.0
AIRFLOW_3 = metadata.version("apache-airflow") >= "3"

SETTINGS = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
    "AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": "256",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__API_AUTH__JWT_ISSUER": "airflow",  # 3.0 has none, which today's PyJWT doesn't take
    "AIRFLOW__DAG_PROCESSOR__DISABLE_BUNDLE_VERSIONING": "True",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    # Detect dead processes within seconds, but tolerate delays of a busy machine.
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__PARSING_CLEANUP_INTERVAL": "600",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    # The same in Airflow 2, which marks a dead try as failed at each detection until its DAG processor has handled the
    # first one: detected more often, the next tries fail with it.
    "AIRFLOW__SCHEDULER__LOCAL_TASK_JOB_HEARTBEAT_SEC": "3",
    "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "20",
    "AIRFLOW__SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "15",
    "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "600",
}
CELERY_SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": "8",
    # Redis delivers a task that takes longer to another worker.
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "10",
}


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """A row of Airflow's table.

    :param id: differs between tries; in Airflow 2 the ID of the worker's job, which also differs between deferrals.
    """

    id: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    state: str | None
    try_number: int

    @property
    def is_over(self) -> bool:
        """Whether it is in a terminal state."""
        return self.state in ("success", "failed", "skipped", "upstream_failed", "removed")


class Victim(StrEnum):
    """Which of a worker's processes are killed."""

    MACHINE = "all processes"
    """As if the machine is lost or out of memory."""
    TASK = "the task's own"
    SUPERVISOR = "its supervisor"
    """The task's code runs until it sends something to Airflow."""


@dataclass(frozen=True, slots=True)
class Worker:
    """The processes of one try of a task.

    :param supervisor: the executor's process, which communicates with Airflow.
    :param runner: the child that runs the task's code.
    """

    supervisor: psutil.Process
    runner: psutil.Process

    def freeze(self) -> None:
        """Stop the task's process with SIGSTOP."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.runner.suspend()

    def kill(self, victim: Victim = Victim.MACHINE) -> None:
        """SIGKILL the task's processes, or some of them."""
        self.freeze()  # so that the supervisor only waits for it
        doomed = [] if victim is Victim.SUPERVISOR else [*self._below(), self.runner]
        if victim is not Victim.TASK:
            doomed.insert(0, self.supervisor)
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if victim is Victim.SUPERVISOR:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.runner.resume()

    def _below(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return self.runner.children(recursive=True)
        return []


class RealAirflow:
    """A real Airflow for a ``with`` block.

    :param home: directory for logs and configuration; recreated.
    :param dags: directory of the DAG files.
    :param connections: connections by ID, in Airflow's JSON format.
    :param database: ``postgresql``, ``sqlite``, or None for PostgreSQL if it is installed.
    :param triggerers: number of triggerers.
    :param celery_workers: number of Celery workers; if any, the executor is CeleryExecutor with Redis.
    :param settings: environment variables that extend or override :data:`SETTINGS`.
    :raises RuntimeError: a component doesn't start; the message has the path of its log.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        database: str | None = None,
        triggerers: int = 1,
        celery_workers: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.database = database or ("postgresql" if servers.postgresql_programs() else "sqlite")
        self._wanted_triggerers = triggerers
        self._wanted_workers = celery_workers
        self._dags = dags
        self._connections = connections or {}
        self._settings = settings or {}
        self._stack = contextlib.ExitStack()
        self._session = requests.Session()
        self._session.trust_env = False
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self._triggerers: list[str] = []
        self._workers: list[str] = []
        self._acting = threading.Lock()

    # --- starting and stopping -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Start all components."""
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill all components and running tasks."""
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        (self.home / "logs").mkdir(parents=True)
        if self.database == "postgresql":
            uri, self.data = stack.enter_context(servers.postgresql(self.home / "postgresql.log"))
        else:
            uri, self.data = f"sqlite:///{self.home / 'airflow.db'}", self.home
        broker = stack.enter_context(servers.redis(self.home)) if self._wanted_workers else None
        port = servers.free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = self._environment(uri, broker)
        self.engine = sqlalchemy.create_engine(uri, pool_pre_ping=True)
        stack.callback(self.engine.dispose)
        stack.callback(self._session.close)
        self._airflow("db", "migrate")
        stack.callback(self._stop)
        self._run("scheduler", "scheduler", "--skip-serve-logs")
        if AIRFLOW_3:
            self._run("api-server", "api-server", "--host", "127.0.0.1", "--port", str(port))
            self._run("dag-processor", "dag-processor")
        else:
            self._start_actions()
        for _ in range(self._wanted_triggerers):
            self.start_triggerer(wait=False)
        for number in range(self._wanted_workers):
            name = f"worker-{number + 1}"
            self._workers.append(name)
            # With SIGTERM it would wait for running tasks.
            words = ("celery", "worker", "--celery-hostname", name, "--skip-serve-logs")
            self._run(name, *words, REMAP_SIGTERM="SIGQUIT")
        self._wait_until_healthy()

    def _environment(self, uri: str, broker: str | None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "SIM_"))}
        for name in [name for name in kept if name.lower().endswith("_proxy")]:
            del kept[name]
        named = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in self._connections.items()}
        return {
            **kept,
            **SETTINGS,
            **({} if broker is None else {**CELERY_SETTINGS, "AIRFLOW__CELERY__BROKER_URL": broker}),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self._dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": uri,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
            **named,
            **self._settings,
        }

    def _airflow(self, *words: str) -> None:
        with (self.home / f"{'-'.join(words)}.log").open("wb") as log:
            command = [sys.executable, "-m", "airflow", *words]
            ended = subprocess.run(command, env=self.environment, stdout=log, stderr=log, cwd=self.home)
        if ended.returncode:
            raise RuntimeError(f"airflow {' '.join(words)} failed; see {log.name}")

    def _run(self, name: str, *words: str, **environment: str) -> None:
        with (self.home / f"{name}.log").open("wb") as log:
            self._parts[name] = subprocess.Popen(
                [*servers.DIES_WITH_US, sys.executable, "-m", "airflow", *words],
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.home,
            )
        if hasattr(os, "SCHED_BATCH"):
            # Otherwise, on a busy machine, a task's process often wakes its supervisor by closing its sockets before it
            # has exited. The supervisor then detects the exit only at its next heartbeat.
            os.sched_setscheduler(self._parts[name].pid, os.SCHED_BATCH, os.sched_param(0))

    def _start_actions(self) -> None:
        """Run :mod:`scripts.airflow_2`."""
        with (self.home / "actions.log").open("wb") as log:
            self._actions = self._parts["actions"] = subprocess.Popen(
                [*servers.DIES_WITH_US, sys.executable, "-m", "scripts.airflow_2"],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd=self.home,
            )

    def _act(self, action: str, **arguments: Any) -> None:
        """Perform an action in Airflow 2.

        :raises RuntimeError: Airflow rejected it.
        """
        with self._acting:
            assert self._actions.stdin is not None
            assert self._actions.stdout is not None
            self._actions.stdin.write(json.dumps({"action": action, **arguments}).encode() + b"\n")
            self._actions.stdin.flush()
            for line in self._actions.stdout:
                if line.startswith(airflow_2.ANSWER.encode()):
                    error = json.loads(line.removeprefix(airflow_2.ANSWER.encode()))
                    if error:
                        raise RuntimeError(f"{action} {arguments}: {error}")
                    return
        raise RuntimeError(f"scripts.airflow_2 has ended; see {self.home / 'actions.log'}")

    def _wait_until_healthy(self) -> None:
        def are_up() -> bool:
            if not AIRFLOW_3:
                return bool(self._live("SchedulerJob", 30.0))
            health = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=10).json()
            wanted = ["scheduler", "dag_processor", *(["triggerer"] if self._wanted_triggerers else [])]
            return all((health.get(part) or {}).get("status") == "healthy" for part in wanted)

        def is_healthy() -> bool:
            with contextlib.suppress(requests.RequestException):
                return (
                    are_up()
                    and len(self.live_triggerers()) >= self._wanted_triggerers
                    and all(f"celery@{name} ready" in self.printed_by(name) for name in self._workers)
                    and self._has_dags()
                )
            return False

        self.wait_until(is_healthy, START_PATIENCE, "Airflow to be up")

    def _has_dags(self) -> bool:
        """Return whether every DAG file was parsed.

        :raises RuntimeError: a DAG file can't be parsed.
        """
        broken = self.query("SELECT filename, stacktrace FROM import_error")
        if broken:
            raise RuntimeError("\n".join(f"{row.filename}: {row.stacktrace}" for row in broken))
        column = "relative_fileloc" if AIRFLOW_3 else "fileloc"
        files = {Path(row[0]).name for row in self.query(f"SELECT DISTINCT {column} FROM dag")}
        return files >= {path.name for path in self._dags.glob("*.py")}

    def _stop(self) -> None:
        """Kill all processes."""
        for part in self._parts.values():
            part.kill()  # first, so that they start no more processes
        while left := list(self._processes()):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=5)
        for part in self._parts.values():
            part.wait(timeout=STOP_PATIENCE)

    def processes(self, part: str) -> list[psutil.Process]:
        """Return a component's first process and its descendants.

        :param part: ``scheduler``, with LocalExecutor's workers and their tasks, ``api-server``, ``dag-processor``, a
            triggerer or one of Celery's workers, with its tasks.
        """
        first = psutil.Process(self._parts[part].pid)
        return [first, *first.children(recursive=True)]

    def _processes(self) -> Iterator[psutil.Process]:
        """Yield all processes of this Airflow including orphans. Process titles hide the environment of workers."""
        sessions = {part.pid for part in self._parts.values()}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                ours = os.getsid(process.pid) in sessions or process.environ().get("AIRFLOW_HOME") == str(self.home)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    # --- triggerers ----------------------------------------------------------------------------------------------

    @property
    def triggerers(self) -> list[str]:
        """Names of the running triggerers, as in :meth:`waiting_in`."""
        return [name for name, part in self._parts.items() if name in self._triggerers and part.poll() is None]

    def start_triggerer(self, *, wait: bool = True) -> str:
        """Start another triggerer; return its name.

        :param wait: wait until it has sent a heartbeat.
        """
        name = f"triggerer-{len(self._triggerers) + 1}"
        self._triggerers.append(name)
        # The user name is the only column of Airflow's job table that can distinguish two triggerers of a machine.
        self._run(name, "triggerer", "--skip-serve-logs", LOGNAME=name)
        if wait:
            self.wait_until(lambda: name in self.live_triggerers(), START_PATIENCE, f"{name} to report")
        return name

    def stop_triggerer(self, name: str) -> None:
        """Stop a triggerer as an upgrade would, by SIGTERM."""
        self._parts[name].terminate()
        self._parts[name].wait(timeout=START_PATIENCE)

    def kill_triggerer(self, name: str) -> None:
        """SIGKILL a triggerer and the process that runs its triggers."""
        self._signal_triggerer(name, signal.SIGKILL)
        self._parts[name].wait(timeout=START_PATIENCE)

    def freeze_triggerer(self, name: str) -> None:
        """Stop a triggerer with SIGSTOP, so that Airflow considers it dead."""
        self._signal_triggerer(name, signal.SIGSTOP)

    def thaw_triggerer(self, name: str) -> None:
        """Continue a stopped triggerer."""
        self._signal_triggerer(name, signal.SIGCONT)

    def _signal_triggerer(self, name: str, number: signal.Signals) -> None:
        triggerer = psutil.Process(self._parts[name].pid)
        for process in [triggerer, *triggerer.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def live_triggerers(self) -> set[str]:
        """Return the triggerers that Airflow considers alive."""
        threshold = float(self.environment["AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD"])
        return self._live("TriggererJob", threshold)

    def _live(self, job_type: str, threshold: float) -> set[str]:
        """Return the user names of components with a heartbeat in the last ``threshold`` seconds."""
        rows = self.query(
            "SELECT unixname, latest_heartbeat FROM job WHERE job_type = :job_type AND state = 'running'",
            job_type=job_type,
        )
        return {row.unixname for row in rows if _age(row.latest_heartbeat) < threshold}

    def waiting_in(self, run_id: str) -> dict[str, int]:
        """Count the deferred tasks of a DAG run by triggerer."""
        rows = self.query(
            "SELECT j.unixname, count(*) FROM task_instance t JOIN trigger g ON t.trigger_id = g.id"
            " JOIN job j ON g.triggerer_id = j.id WHERE t.run_id = :run_id AND t.state = 'deferred'"
            " GROUP BY j.unixname",
            run_id=run_id,
        )
        return {row[0]: row[1] for row in rows}

    # --- DAG runs and task instances -----------------------------------------------------------------------------

    def trigger(
        self,
        dag_id: str,
        conf: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        logical_date: datetime | None = None,
    ) -> str:
        """Trigger a DAG run; return its ID."""
        run_id = run_id or f"{dag_id}-{secrets.token_hex(4)}"
        date = logical_date and logical_date.isoformat()
        if AIRFLOW_3:
            body = {"dag_run_id": run_id, "logical_date": date, "conf": dict(conf or {})}
            self.api("POST", f"/dags/{dag_id}/dagRuns", body)
        else:
            self._act("trigger", dag_id=dag_id, run_id=run_id, conf=dict(conf or {}), logical_date=date)
        return run_id

    def delete(self, dag_id: str, run_id: str) -> None:
        """Delete a DAG run."""
        if AIRFLOW_3:
            self.api("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")
        else:
            self._act("delete", dag_id=dag_id, run_id=run_id)

    def task_instances(self, run_id: str | None = None) -> list[TaskInstance]:
        """Return the task instances of a DAG run, or of all DAG runs."""
        where = "" if run_id is None else " WHERE run_id = :run_id"
        id_column = "id" if AIRFLOW_3 else "job_id"
        columns = f"{id_column}, dag_id, run_id, task_id, map_index, state, try_number"
        rows = self.query(f"SELECT {columns} FROM task_instance{where}", run_id=run_id)
        return [TaskInstance(_uuid(row[0]) if AIRFLOW_3 else str(row[0]), *row[1:]) for row in rows]

    def task_instance(self, run_id: str, task_id: str, map_index: int = -1) -> TaskInstance:
        """Return a task instance.

        :raises LookupError: it doesn't exist.
        """
        for ti in self.task_instances(run_id):
            if (ti.task_id, ti.map_index) == (task_id, map_index):
                return ti
        raise LookupError(f"DAG run {run_id} has no task instance {task_id}[{map_index}]")

    def wait_for(
        self, run_id: str, task_id: str, *states: str, patience: float = 120, map_index: int = -1
    ) -> TaskInstance:
        """Wait until a task instance is in one of the states, and return it."""
        found: list[TaskInstance] = []

        def is_there() -> bool:
            with contextlib.suppress(LookupError):
                found[:] = [self.task_instance(run_id, task_id, map_index)]
            return bool(found) and found[0].state in states

        try:
            self.wait_until(is_there, patience, f"{run_id} {task_id} to be {' or '.join(states)}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {found[0].state if found else 'not there'}") from None
        return found[0]

    def xcom(self, ti: TaskInstance, key: str = "return_value") -> Any:
        """Return an XCom of a task instance, or None."""
        if not AIRFLOW_3:
            names = _names(ti)
            where = " AND ".join(f"{name} = :{name}" for name in names)
            rows = self.query(f"SELECT value FROM xcom WHERE key = :key AND {where}", key=key, **names)
            return json.loads(bytes(rows[0].value)) if rows else None
        place = f"{_path(ti)}/xcomEntries/{key}?map_index={ti.map_index}&stringify=false"
        with contextlib.suppress(LookupError):
            return self.api("GET", place)["value"]
        return None

    def log(self, ti: TaskInstance) -> str:
        """Return the log lines of all tries of a task instance."""
        folder = self.home / "logs" / f"dag_id={ti.dag_id}" / f"run_id={ti.run_id}" / f"task_id={ti.task_id}"
        if ti.map_index >= 0:
            folder /= f"map_index={ti.map_index}"
        return "".join(path.read_text() for path in sorted(folder.glob("attempt=*.log*")))

    def clear(self, ti: TaskInstance) -> None:
        """Clear a task instance, as the button in Airflow's UI does."""
        if not AIRFLOW_3:
            self._act("clear", **_names(ti))
            return
        task: Any = ti.task_id if ti.map_index < 0 else [ti.task_id, ti.map_index]
        body = {"dry_run": False, "dag_run_id": ti.run_id, "task_ids": [task], "only_failed": False}
        self.api("POST", f"/dags/{ti.dag_id}/clearTaskInstances", body)

    def mark(self, ti: TaskInstance, state: str) -> None:
        """Mark a task instance as ``failed`` or ``success``, as the buttons in Airflow's UI do."""
        if not AIRFLOW_3:
            self._act("mark", **_names(ti), state=state)
            return
        place = _path(ti) if ti.map_index < 0 else f"{_path(ti)}/{ti.map_index}"
        self.api("PATCH", place, {"new_state": state})

    # --- workers -------------------------------------------------------------------------------------------------

    def worker(self, ti: TaskInstance) -> Worker | None:
        """Return the processes of a task instance's current try, or None."""
        title, above = f"airflow worker -- {ti.id}", ti.id
        if not AIRFLOW_3:
            title = f"airflow task runner: {ti.dag_id} {ti.task_id} {ti.run_id} {ti.id}"
            above = "airflow task supervisor: "
        runner = next(_titled(title), None)
        if runner is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = runner.parent()
            if supervisor is not None and above in " ".join(supervisor.cmdline()):
                return Worker(supervisor, runner)
        return None

    @property
    def celery_workers(self) -> list[str]:
        """Names of the running Celery workers."""
        return [name for name in self._workers if self._parts[name].poll() is None]

    def celery_worker(self, ti: TaskInstance) -> str | None:
        """Return the Celery worker of a task instance's current try, or None."""
        worker = self.worker(ti)
        return next((name for name in self.celery_workers if worker and worker.runner in self.processes(name)), None)

    def kill_celery_worker(self, name: str) -> None:
        """SIGKILL a Celery worker and its descendants, as if its machine is lost."""
        doomed = self.processes(name)
        for number in (signal.SIGSTOP, signal.SIGKILL):  # so that none reacts to another's death
            for process in doomed:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        self._parts[name].wait(timeout=STOP_PATIENCE)

    # --- API and database ----------------------------------------------------------------------------------------

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to Airflow's REST API.

        :param path: below ``/api/v2``.
        :raises LookupError: it doesn't exist.
        :raises RuntimeError: it was refused.
        """
        answer = self._ask(method, f"/api/v2{path}", body)
        if answer.status_code == 404:
            raise LookupError(f"{method} {path}: {answer.text}")
        if not answer.ok:
            raise RuntimeError(f"{method} {path} answered {answer.status_code}: {answer.text}")
        return answer.json() if answer.content else None

    def get(self, path: str) -> requests.Response:
        """Return the API server's response to a GET, whatever its status.

        :param path: the whole of it, such as ``/ui/dags``.
        """
        return self._ask("GET", path, None, Connection="close")  # after an internal error, it closes the connection

    def _ask(self, method: str, path: str, body: Any, **headers: str) -> requests.Response:
        answer = self._session.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=60)
        if answer.status_code != 401:
            return answer
        token = self._session.get(f"{self.url}/auth/token", timeout=60).json()["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"
        return self._session.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=60)

    def query(self, sql: str, **parameters: Any) -> list[Any]:
        """Query the metadata database."""
        with self.engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(sql), parameters))

    @property
    def version(self) -> str:
        """Airflow's version."""
        return metadata.version("apache-airflow")

    def scheduler_has_heard(self, of: str) -> bool:
        """Return whether the scheduler has processed the end of a task's worker.

        :param of: a part of how it writes the task's key: ``task_id='t', run_id='r'``.
        """
        lines = self.printed_by("scheduler").splitlines()
        return any("Received executor event with state success" in line and of in line for line in lines)

    def printed_by(self, part: str) -> str:
        """Return the output of a component; see :meth:`processes`."""
        return (self.home / f"{part}.log").read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], patience: float, what: str, *, pause: float = 0.25) -> None:
        """Wait for a condition.

        :raises TimeoutError: it took longer than ``patience`` seconds.
        :raises RuntimeError: a component has exited.
        """
        until = time.monotonic() + patience
        while not condition():
            for name, part in self._parts.items():
                if part.poll() is not None and name not in (*self._triggerers, *self._workers):
                    raise RuntimeError(f"Airflow's {name} ended with {part.returncode}; see {self.home / name}.log")
            if time.monotonic() > until:
                raise TimeoutError(f"Waited {patience:.0f} s for {what}; Airflow's logs are in {self.home}")
            time.sleep(pause)


def _titled(title: str) -> Iterator[psutil.Process]:
    """Return the processes with this title, without psutil, which takes ten times as long."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                words = (folder / "cmdline").read_bytes()
                if words.rstrip(b"\0 ").decode(errors="replace") == title:
                    yield psutil.Process(int(folder.name))


def _names(ti: TaskInstance) -> dict[str, Any]:
    return {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}


def _path(ti: TaskInstance) -> str:
    return f"/dags/{ti.dag_id}/dagRuns/{ti.run_id}/taskInstances/{ti.task_id}"


def _uuid(value: Any) -> str:
    """Return an ID with hyphens; SQLite stores it without."""
    return str(value if isinstance(value, uuid.UUID) else uuid.UUID(str(value)))


def _age(moment: Any) -> float:
    """Return the seconds since a timestamp of the database."""
    then = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
    return (datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()
