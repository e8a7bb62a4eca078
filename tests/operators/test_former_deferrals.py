"""Tasks that a former release has deferred go on with the code of today, in the triggerer and on the worker.

``deferrals/`` holds what former states of the package had left in Airflow's database when their tasks waited
(``scripts.record_deferrals``), and the events that their own triggers then fired.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from airflow.providers.common.compat.module_loading import import_string

from airflow_provider_sim.operators import task_batch
from airflow_provider_sim.sensors.sim import SimJobSensor
from airflow_provider_sim.triggers import batch as batch_triggers
from airflow_provider_sim.triggers import sim as triggers
from tests.operators.conftest import TaskInstance, fire

pytestmark = pytest.mark.usefixtures("connection")

STATES = sorted((Path(__file__).parent / "deferrals").glob("*.json"))
RECORDS = {
    f"{path.stem}-{deferred['task'].rpartition('.')[2]}": (deferred, told["at"])
    for path in STATES
    for told in [json.loads(path.read_text())]
    for deferred in told["deferred"]
}


@pytest.fixture(params=RECORDS)
def deferred(request, context, client, monkeypatch):
    """A deferral as if it had been recorded just now, with its runs going on and its XComs pushed."""
    monkeypatch.setattr(triggers, "FIRST_LOOK_AFTER", 0.01)
    monkeypatch.setattr(batch_triggers, "read_xcom", lambda names, key: context["ti"].xcoms.get(key))
    monkeypatch.setattr(task_batch, "delete_xcom", lambda names, key: context["ti"].xcoms.pop(key, None))
    record, at = RECORDS[request.param]
    kwargs = dict(record["trigger_kwargs"])
    for moment in {"deadline", "since"} & set(kwargs):
        kwargs[moment] = kwargs[moment] and kwargs[moment] + time.time() - at
    context["ti"].xcoms.update(record["xcoms"])
    for run in record["runs"]:
        client.execute_workflow(
            run["workflow_id"], {**run["input"], "seconds": 0.1}, async_execution=True, run_id=run["run_id"]
        )
    return {**record, "trigger_kwargs": kwargs}


def resumed(deferred, context, event):
    """What a worker with today's code returns, as Airflow resumes it."""
    task = import_string(deferred["task"])(**deferred["arguments"])
    return task.resume_execution(deferred["next_method"], {**deferred["next_kwargs"], "event": event}, context)


def outputs(result):
    """The texts of the runs' outputs."""
    return [output["result"]["message"] for output in (result if isinstance(result, list) else [result])]


def test_a_trigger_with_former_arguments_fires_and_the_task_goes_on(deferred, context, emulator):
    trigger = import_string(deferred["trigger"])(**deferred["trigger_kwargs"])
    result = resumed(deferred, context, fire(trigger, context["ti"]))
    if deferred["runs"]:
        assert outputs(result) == ["hi"] * len(emulator.runs)
    assert len(emulator.runs) == len(deferred["runs"]), "none is started again"


def test_an_event_of_a_former_trigger_is_understood(deferred, context, emulator):
    for run in deferred["runs"]:
        sensor = SimJobSensor(task_id="s", workflow_id="slow", run_id=run["run_id"], poke_interval=0.05)
        sensor.execute({**context, "ti": TaskInstance()})
    result = resumed(deferred, context, deferred["event"])
    if deferred["runs"]:
        assert outputs(result) == ["hi"] * len(emulator.runs)
    assert len(emulator.runs) == len(deferred["runs"]), "none is started again"
