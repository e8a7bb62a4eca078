"""Deployments of Airflow that run all example DAGs; on some, a triggerer and a worker are killed.

They are killed when all tasks wait: the emulator's runs don't finish before Airflow has detected the kills and other
processes have taken over. So it is known which tasks are hit.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.request_context import RecordedRequest
from airflow_provider_sim.emulator.workflows import Workflow
from scripts.demo import DAG_IDS
from scripts.real_airflow import RealAirflow, TaskInstance
from tests.airflow import places
from tests.airflow.expected import name_of
from tests.airflow.places import Place

RUN_ID = "manual__1"
"""Of every DAG's run."""
PATIENCE = 240

DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "standalone": {"database": "sqlite"},
    "local": {"database": "postgresql", "triggerers": 2},
    "celery": {"database": "postgresql", "triggerers": 2, "celery_workers": 2},
}
"""Arguments of :class:`RealAirflow`. The first is the default of ``airflow standalone``."""
DISTURBED = ["local", "celery"]
RETRIES = {"AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "2", "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1"}
"""For tasks whose workers are killed, and for races in deferred ones (see ``docs/concepts/durability.md``)."""

ON_WORKERS = {"agent.answer", "batch.several", "branch.triage", "deploy.trial", "taskflow.outline", "usage.digest"}
"""Tasks that wait on a worker; the first polls, the others have an open connection."""
IN_TRIGGERERS = {
    "batch.review",
    "deferrable.summary",
    "mapped.review[0]",
    "mapped.review[1]",
    "mapped.review[2]",
    "sim_bad_ends.waits_in_the_triggerer",
}
MIDDLE = {
    **dict.fromkeys(ON_WORKERS, "running"),
    **dict.fromkeys(IN_TRIGGERERS, "deferred"),
    "approval.decide": "awaiting_input",
}
"""States of all active tasks, except the rescheduled sensor."""
COMES_BACK = "async_sensor.done"
RUNNING = Counter(
    {
        ("slow", "async"): 3,
        ("echo_plain", "async"): 8 + 3 + 1 + 1,  # of batch.review, mapped.review, batch.several and the notifier
        ("echo_plain", "sync"): 5,
    }
)
"""Active runs at that moment."""


@dataclass
class Examples:
    """All example DAGs and further ones on one Airflow.

    :param dag_ids: further DAGs.
    :param killed: tasks whose workers were killed.
    :param moved: number of tasks in the killed triggerer.
    :param triggers: arguments of waiting triggers.
    """

    airflow: RealAirflow
    sim: SimEmulator
    dag_ids: list[str]
    killed: dict[str, TaskInstance] = field(default_factory=dict)
    moved: int = 0
    triggers: set[Place] = field(default_factory=set)

    def run(self, *, deaths: bool) -> None:
        """Run the DAGs until they are finished.

        :param deaths: whether to kill a triggerer and a worker.
        """
        may_end = threading.Event()
        for workflow_id in ("slow", "echo_plain"):
            workflow = self.sim.state.workflows[workflow_id]
            workflow.duration = _endless_until(may_end, workflow)
        self.sim.on_request(self._look_for_triggers)
        for dag_id in [*DAG_IDS, *self.dag_ids]:
            self.airflow.trigger(dag_id, run_id=RUN_ID)
        self._await(self._is_in_the_middle, "everything to wait")
        if deaths:
            victim = self._kill_a_triggerer()
            self._kill_a_worker()
            self._await(lambda: self._has_recovered(victim), "others to take over")
        may_end.set()
        self._approve()
        self._await(self._are_over, "all DAGs to be over")

    @property
    def states(self) -> dict[str, str | None]:
        """Return all task states by name."""
        return {name: ti.state for name, ti in self.tis.items()}

    @property
    def outputs(self) -> dict[str, Any]:
        """Return all outputs by task name."""
        return {name: self.airflow.xcom(ti) for name, ti in self.tis.items()}

    @property
    def tis(self) -> dict[str, TaskInstance]:
        """Return all task instances by name."""
        return {name_of(ti): ti for ti in self.airflow.task_instances(RUN_ID)}

    def _look_for_triggers(self, request: RecordedRequest) -> None:
        if request.method == "GET" and "/runs/" in request.path:
            self.triggers.update(places.triggers(self.airflow))

    def _approve(self) -> None:
        """Answer a human-in-the-loop task as in Airflow's UI."""
        self.airflow.wait_for(RUN_ID, "decide", "awaiting_input", patience=PATIENCE)
        # Airflow 3.3.2 fails a task that is answered before the scheduler has processed the deferral.
        heard = f"task_id='decide', run_id='{RUN_ID}'"
        self._await(lambda: self.airflow.scheduler_has_heard(heard), "the scheduler to process the deferral")
        place = f"/dags/example_sim_approval/dagRuns/{RUN_ID}/taskInstances/decide/-1/hitlDetails"
        self.airflow.api("PATCH", place, {"chosen_options": ["Approve"], "params_input": {"comment": "by all means"}})

    def _are_over(self) -> bool:
        rows = self.airflow.query("SELECT state FROM dag_run WHERE run_id = :run_id", run_id=RUN_ID)
        return all(row.state in ("success", "failed") for row in rows)

    def _is_in_the_middle(self) -> bool:
        begun = {name: ti.state for name, ti in self.tis.items() if not ti.is_over and ti.state is not None}
        begun.pop(COMES_BACK, None)
        return begun == MIDDLE and self._waiting() == len(IN_TRIGGERERS) and self._running() == RUNNING

    def _kill_a_triggerer(self) -> str:
        """Kill the triggerer with more tasks; return its name."""
        victim, self.moved = max(self.airflow.waiting_in(RUN_ID).items(), key=lambda item: item[1])
        self.airflow.kill_triggerer(victim)
        return victim

    def _kill_a_worker(self) -> None:
        """Kill a Celery worker, or LocalExecutor's workers of two tasks."""
        tis = {name: ti for name, ti in self.tis.items() if name in ON_WORKERS}
        if not self.airflow.celery_workers:
            self.killed = {name: tis[name] for name in ("batch.several", "taskflow.outline")}
            for ti in self.killed.values():
                worker = self.airflow.worker(ti)
                assert worker is not None
                worker.kill()
            return
        places = {name: self.airflow.celery_worker(ti) for name, ti in tis.items()}
        [(victim, _)] = Counter(places.values()).most_common(1)
        assert victim is not None
        self.killed = {name: ti for name, ti in tis.items() if places[name] == victim}
        self.airflow.kill_celery_worker(victim)

    def _has_recovered(self, triggerer: str) -> bool:
        now = self.tis
        return (
            triggerer not in self.airflow.waiting_in(RUN_ID)
            and self._waiting() == len(IN_TRIGGERERS)
            and all(
                now[name].state == "running" and now[name].try_number == ti.try_number + 1
                for name, ti in self.killed.items()
            )
            and self._running() == RUNNING
            and self._is_handed_out_again()
        )

    def _is_handed_out_again(self) -> bool:
        """Return whether Redis has delivered a running task to another worker, after ``visibility_timeout``."""
        workers = self.airflow.celery_workers
        return not workers or any("Task already running elsewhere" in self.airflow.printed_by(name) for name in workers)

    def _waiting(self) -> int:
        return sum(self.airflow.waiting_in(RUN_ID).values())

    def _running(self) -> Counter[tuple[str, str]]:
        return Counter((run.workflow_id, run.mode) for run in self.sim.runs if run.status == "running")

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        self.airflow.wait_until(condition, PATIENCE, what, pause=0.5)


def _endless_until(may_end: threading.Event, workflow: Workflow) -> Callable[[dict[str, Any]], float]:
    seconds = workflow.duration

    def duration(given: dict[str, Any]) -> float:
        if not may_end.is_set():
            return float("inf")
        return float(seconds(given) if callable(seconds) else seconds)

    return duration
