"""Tasks that end in the triggerer, and sensors that start there."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor
from airflow_provider_sim.triggers import sim as triggers
from tests.operators.conftest import TaskInstance
from tests.versions import needs_airflow

pytestmark = pytest.mark.usefixtures("connection")
BLOCK = "11111111-2222-4333-8444-555555555555"
ends = needs_airflow("3.3", "triggers that can push XComs")


@pytest.fixture(autouse=True)
def _no_delay_before_the_first_poll(monkeypatch):
    monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.01)


@pytest.fixture
def adds(emulator):
    emulator.workflow("adds", duration=0.3)(lambda given: {"sum": 3, "password": "p"})
    return "adds"


@pytest.fixture(autouse=True)
def pushed(monkeypatch):
    """What triggers push, by what name."""
    xcoms = {}

    async def push(task_instance, given):
        json.dumps(given)
        xcoms.update(given)

    monkeypatch.setattr(triggers, "push_xcoms", push)
    return xcoms


def event_of(trigger: BaseTrigger) -> TriggerEvent:
    """The trigger's one event, in another process than the one that made it."""
    _, arguments = trigger.serialize()
    rebuilt = triggers.SimRunTrigger(**json.loads(json.dumps(arguments)))
    rebuilt.task_instance = trigger.task_instance or TaskInstance()

    async def events():
        return [event async for event in rebuilt.run()]

    [event] = asyncio.run(events())
    return event


def deferred(task, context) -> BaseTrigger:
    with pytest.raises(TaskDeferred) as deferral:
        task.execute(context)
    return deferral.value.trigger


def operator(**arguments):
    return SimExecuteWorkflowOperator(
        **{"task_id": "t", "workflow_id": "adds", "deferrable": True, "poll_interval": 0.02, "end_from_trigger": True}
        | arguments
    )


@pytest.fixture
def start(adds, context):
    """Start a run as another task would."""

    def start_run(workflow_id=adds):
        return operator(workflow_id=workflow_id, wait_for_completion=False).execute(context)

    return start_run


def sensor(run_id, **arguments):
    return SimJobSensor(
        **{"task_id": "s", "workflow_id": "adds", "run_id": run_id, "poke_interval": 0.02, "deferrable": True}
        | arguments
    )


class TestEndFromTrigger:
    @ends
    def test_operator_trigger_pushes_the_xcoms_of_a_worker(self, context, adds, pushed):
        event = event_of(deferred(operator(), context))
        assert isinstance(event, TaskSuccessEvent)
        details = pushed.pop("run_details")
        assert pushed == {"return_value": {"sum": 3, "password": "p"}}
        assert (details["workflow_id"], details["status"], details["cost_usd"]) == ("adds", "completed", 0.005)

    @ends
    def test_sensor_trigger_pushes_the_output(self, context, start, pushed):
        event = event_of(deferred(sensor(start(), end_from_trigger=True), context))
        assert isinstance(event, TaskSuccessEvent)
        assert pushed["return_value"] == {"sum": 3, "password": "p"}

    def test_event_contains_no_output(self, context, adds):
        assert "sum" not in str(event_of(deferred(operator(), context)).payload)

    @ends
    def test_display_copy_is_marked(self, context, adds, emulator, pushed):
        emulator.state.keep_jobs = False
        event_of(deferred(operator(), context))
        assert pushed["output_is_display_copy"] is True

    @ends
    def test_do_xcom_push_false_pushes_nothing(self, context, adds, pushed):
        event = event_of(deferred(operator(do_xcom_push=False), context))
        assert isinstance(event, TaskSuccessEvent)
        assert pushed == {}

    @ends
    def test_files_are_saved(self, context, emulator, tmp_path, pushed):
        value = {"id": "f", "name": "a.txt", "size": 2, "type": "text/plain", "key": "k", "context": "execution"}
        emulator.workflow("adds", duration=0.3)(lambda given: {"file": {**value, "base64": "aGk="}})
        event_of(deferred(operator(output_files_dir=f"file://{tmp_path}"), context))
        path = pushed["return_value"]["file"]["path"].removeprefix("file://")
        with open(path) as saved:
            assert saved.read() == "hi"

    @pytest.mark.parametrize(
        "arguments",
        [
            pytest.param({"workflow_id": "failing_later"}, id="failed run"),
            pytest.param({"max_output_bytes": 5}, id="large output"),
            pytest.param({"workflow_id": "paused_later", "on_paused": "return"}, id="pause"),
            pytest.param({"timeout": 0.05, "workflow_id": "slow", "input": {"seconds": 60}}, id="timeout"),
        ],
    )
    def test_other_outcomes_are_left_to_a_worker(self, context, adds, emulator, arguments):
        emulator.workflow("failing_later", duration=0.1)(emulator.state.workflows["failing"].body)
        emulator.workflow("paused_later", duration=0.1)(
            lambda given: emulator.state.workflows["paused"].body({"message": ""})
        )
        event = event_of(deferred(operator(**arguments), context))
        assert not isinstance(event, TaskSuccessEvent)
        assert event.payload["run_id"] == emulator.runs[0].run_id

    def test_arguments_of_the_trigger_are_json(self, context, adds, tmp_path):
        block = "11111111-2222-4333-8444-555555555555"
        task = operator(output_files_dir=tmp_path, selected_outputs=(f"{block}.a",))
        _, arguments = deferred(task, context).serialize()
        assert json.loads(json.dumps(arguments)) == arguments
        options = arguments["options"]
        assert (options["output_files_dir"], options["selected_outputs"]) == (str(tmp_path), [f"{block}.a"])

    def test_worker_ends_the_task_before_airflow_3_3(self, context, adds, monkeypatch, capfd):
        monkeypatch.setattr("airflow_provider_sim.triggers.workerless.TRIGGERS_REPLACE_WORKERS", False)
        task = operator()
        event = event_of(deferred(task, context))
        assert event.payload["status"] == "completed"
        task.execute_complete(context, event.payload)
        assert "before Airflow 3.3" in "".join(capfd.readouterr())

    def test_worker_ends_the_task_by_default(self, context, adds):
        event = event_of(deferred(operator(end_from_trigger=False), context))
        assert event.payload["status"] == "completed"


@needs_airflow("3.3", "templates of tasks that start in the triggerer")
class TestStartFromTrigger:
    def trigger(self, sensor, ti) -> BaseTrigger:
        """What Airflow makes of the task without running it, its templates rendered."""
        assert sensor.start_from_trigger is True
        args = sensor.start_trigger_args
        assert args.trigger_cls == "airflow_provider_sim.triggers.sim.SimRunTrigger"
        trigger = triggers.SimRunTrigger(**json.loads(json.dumps(args.trigger_kwargs)))
        trigger.task_instance = ti
        return trigger

    def test_triggerer_ends_the_task_with_output_and_links(self, start, emulator, pushed):
        run_id = start()
        task = sensor(run_id, start_from_trigger=True, end_from_trigger=True)
        event = event_of(self.trigger(task, TaskInstance()))
        assert isinstance(event, TaskSuccessEvent)
        assert pushed["return_value"] == {"sum": 3, "password": "p"}
        assert pushed["run_url"] == f"{emulator.url}/workspace?redirect_workflow=adds"

    def test_worker_ends_the_task_by_default(self, context, start):
        task = sensor(start(), start_from_trigger=True)
        event = event_of(self.trigger(task, TaskInstance()))
        assert task.execute_complete(context, event.payload) == {"sum": 3, "password": "p"}

    def test_trigger_gets_the_selected_outputs_even_if_a_worker_ends_the_task(self):
        task = sensor("r", start_from_trigger=True, selected_outputs=[f"{BLOCK}.a"])
        assert task.start_trigger_args.trigger_kwargs["options"]["selected_outputs"] == [f"{BLOCK}.a"]

    def test_timeout_counts_from_the_start_of_the_task(self, start, emulator):
        emulator.workflow("adds", duration=60)(lambda given: {})
        ti = TaskInstance()
        ti.start_date = datetime.now(tz=UTC) - timedelta(seconds=100)
        task = sensor(start(), start_from_trigger=True, timeout=100.2)
        assert event_of(self.trigger(task, ti)).payload["status"] == "timeout"

    def test_deferral_timeout_is_later_than_the_timeout(self):
        task = sensor("r", start_from_trigger=True, timeout=100)
        assert task.start_trigger_args.timeout > timedelta(seconds=100)

    def test_xcom_argument_becomes_a_template(self):
        with DAG("d", schedule=None):
            start = operator(task_id="start", wait_for_completion=False)
            task = sensor(start.output, start_from_trigger=True)
        pull = "ti.xcom_pull(task_ids='start', key='return_value', map_indexes=-1)"
        assert task.start_trigger_args.trigger_kwargs["run_id"] == f"{{{{ {pull} }}}}"
        assert task.upstream_task_ids == {"start"}

    def test_sensor_defers_if_triggerer_cannot_pull_the_run_id(self):
        with DAG("d", schedule=None):
            starts = SimExecuteWorkflowOperator.partial(task_id="start", workflow_id="w").expand(input=[1, 2])
            for number, run_id in enumerate([starts.output, "{{ ti.xcom_pull('start') }}"]):
                with pytest.warns(UserWarning, match="map_indexes=-1.*defers from there"):
                    task = SimJobSensor(task_id=f"s{number}", workflow_id="w", run_id=run_id, start_from_trigger=True)
                assert task.start_from_trigger is False
                assert task.deferrable is True

    @pytest.mark.parametrize(
        "given",
        [
            {"output_files_dir": "{{ ti.xcom_pull('where') }}"},
            {"selected_outputs": ["{{ ti.xcom_pull('which') }}"]},
            {"sim_conn_id": "{{ ti.xcom_pull('which') }}"},
        ],
        ids=str,
    )
    def test_sensor_defers_if_triggerer_cannot_pull_an_argument(self, given):
        with pytest.warns(UserWarning, match="map_indexes=-1.*defers from there"):
            task = sensor("r", start_from_trigger=True, end_from_trigger=True, **given)
        assert task.start_from_trigger is False

    def test_triggerer_renders_all_template_fields(self, tmp_path):
        """As in Airflow: from a serialized DAG, whose task has the template fields."""
        from airflow.serialization.decoders import smart_decode_trigger_kwargs
        from airflow.serialization.serialized_objects import DagSerialization

        with DAG("d", schedule=None) as dag:
            task = sensor(
                "{{ params.run }}",
                workflow_id="{{ params.flow }}",
                sim_conn_id="{{ params.conn }}",
                selected_outputs=["{{ params.block }}.a"],
                output_files_dir=tmp_path / "{{ params.folder }}",
                start_from_trigger=True,
                end_from_trigger=True,
                poke_interval=7,
            )
        restored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag)))).get_task("s")
        kwargs = smart_decode_trigger_kwargs(restored.start_trigger_args.trigger_kwargs)
        trigger = triggers.SimRunTrigger(**kwargs)
        ti = TaskInstance()
        ti.task = restored
        trigger.task_instance = ti
        params = {"run": "r-1", "flow": "f-1", "conn": "sim_other", "block": BLOCK, "folder": "out"}
        trigger.render_template_fields({"params": params})
        assert (trigger.workflow_id, trigger.run_id) == ("f-1", "r-1")
        options = trigger.run_options
        assert (options.sim_conn_id, options.selected_outputs) == ("sim_other", [f"{BLOCK}.a"])
        assert (options.output_files_dir, options.poll_interval) == (str(tmp_path / "out"), 7.0)
        assert task.template_fields == ("workflow_id", "run_id", "sim_conn_id", "selected_outputs", "output_files_dir")

    def test_sensor_defers_before_airflow_3_3(self, monkeypatch):
        monkeypatch.setattr("airflow_provider_sim.triggers.workerless.TRIGGERS_REPLACE_WORKERS", False)
        with pytest.warns(UserWarning, match=r"needs Airflow 3\.3.*defers from there"):
            task = sensor("r", start_from_trigger=True, deferrable=False)
        assert task.start_from_trigger is False
        assert task.deferrable is True
