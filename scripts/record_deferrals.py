"""What deferred tasks of this release leave in Airflow's database: print it, for later releases to go on with.

At a release: ``python -m scripts.record_deferrals > tests/operators/deferrals/VERSION.json``. A test resumes all that
lie there, on whatever is the code then.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow_provider_sim.emulator import SimEmulator

INPUT = {"seconds": 3, "message": "hi"}


class TaskInstance:
    """One try of a task instance, as far as the operators ask; keeps its XComs."""

    dag_id, run_id, map_index, try_number, max_tries = "a_dag", "manual__2026-01-01", -1, 1, 2

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.start_date = datetime.now(tz=UTC)
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep an XCom."""
        self.xcoms[key] = value

    def xcom_pull(self, *, key: str, **names: Any) -> Any:
        """Look an XCom up."""
        return self.xcoms.get(key)


def main() -> int:
    """Print the record as JSON."""
    with SimEmulator() as sim:
        connection = {"conn_type": "sim", "host": sim.url, "password": sim.api_key}
        os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = json.dumps(connection)
        record = {"at": time.time(), "deferred": [_deferred(sim, *task) for task in _tasks(sim)]}
    print(json.dumps(record, indent=1))
    return 0


def _tasks(sim: SimEmulator) -> Iterator[tuple[type, dict[str, Any]]]:
    from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
    from airflow_provider_sim.sensors.sim import SimJobSensor

    slow = {"task_id": "t", "workflow_id": "slow"}
    yield SimExecuteWorkflowOperator, {**slow, "input": INPUT, "deferrable": True, "poll_interval": 0.1}
    start = SimExecuteWorkflowOperator(**slow, input=INPUT, wait_for_completion=False)
    run_id = start.execute(_context("start"))
    yield SimJobSensor, {**slow, "run_id": run_id, "deferrable": True, "poke_interval": 0.1}
    try:
        from airflow_provider_sim.operators.batch import SimExecuteWorkflowsOperator
    except ImportError:  # earlier than they are
        return
    inputs = [INPUT, INPUT, INPUT]
    yield SimExecuteWorkflowsOperator, {**slow, "inputs": inputs, "deferrable": True, "poll_interval": 0.1}


def _deferred(sim: SimEmulator, kind: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Execute a task until it defers, and its trigger to its event."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    context, others = _context(), [run.run_id for run in sim.runs if run.run_id != arguments.get("run_id")]
    try:
        kind(**arguments).execute(context)
    except TaskDeferred as deferral:
        path, kwargs = deferral.trigger.serialize()
        return {
            "task": f"{kind.__module__}.{kind.__qualname__}",
            "arguments": arguments,
            "trigger": path,
            "trigger_kwargs": json.loads(json.dumps(kwargs)),
            "next_method": deferral.method_name,
            "next_kwargs": deferral.kwargs or {},
            "event": asyncio.run(_event(deferral.trigger)),
            "xcoms": dict(context["ti"].xcoms),
            "runs": [
                {"workflow_id": "slow", "run_id": run.run_id, "input": INPUT}
                for run in sim.runs
                if run.run_id not in others
            ],
        }
    raise RuntimeError(f"{kind.__name__} did not defer.")


async def _event(trigger: Any) -> Any:
    events = trigger.run()
    event = await anext(events)
    await events.aclose()
    return event.payload


def _context(task_id: str = "t") -> dict[str, Any]:
    return {"ti": TaskInstance(task_id), "dag_run": SimpleNamespace(clear_number=0)}


if __name__ == "__main__":
    sys.exit(main())
