"""SimJobSensor against the emulator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.exceptions import SimInputError, SimRunNotFoundError
from airflow_provider_sim.sensors.sim import SimJobSensor
from tests.operators.conftest import TaskInstance, fire
from tests.versions import needs_airflow

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture
def start(emulator):
    """Start a run as another task would, and return its id."""

    def start_run(workflow_id, input=None):
        with SimClient(emulator.api_key, emulator.url) as client:
            return client.execute_workflow(workflow_id, input, async_execution=True).run_id

    return start_run


@pytest.fixture(params=[False, True], ids=["poke", "deferrable"])
def deferrable(request):
    return request.param


def sensor(**arguments):
    return SimJobSensor(**{"task_id": "s", "poke_interval": 0.02, "timeout": 30, **arguments})


@pytest.mark.parametrize("api_version", ["v2", "legacy"])
def test_output_is_the_xcom(run_task, start, connection, api_version, deferrable):
    run_id = start("slow", {"seconds": 0.2, "message": "hi"})
    connection(extra={"api_version": api_version})
    output = run_task(sensor(workflow_id="slow", run_id=run_id, deferrable=deferrable))
    assert "hi" in str(output)


def test_finished_run_never_defers(context, start):
    run_id = start("echo_plain", {"message": "hi"})
    assert sensor(workflow_id="echo_plain", run_id=run_id, deferrable=True).execute(context)


def test_failed_run_fails_the_sensor_without_retries(run_task, start, deferrable):
    run_id = start("failing", {"message": "x"})
    with pytest.raises(AirflowFailException, match=r"(?i)failed: .*boom"):
        run_task(sensor(workflow_id="failing", run_id=run_id, deferrable=deferrable))


def test_soft_fail_skips_after_a_failed_run(run_task, start):
    run_id = start("failing", {"message": "x"})
    with pytest.raises(AirflowSkipException):
        run_task(sensor(workflow_id="failing", run_id=run_id, soft_fail=True))


def test_timeout_raises_airflow_sensor_timeout(run_task, start, deferrable):
    run_id = start("slow", {"seconds": 60})
    with pytest.raises(AirflowSensorTimeout):
        run_task(sensor(workflow_id="slow", run_id=run_id, timeout=0.2, deferrable=deferrable))


def test_soft_fail_skips_at_the_timeout(run_task, start):
    run_id = start("slow", {"seconds": 60})
    with pytest.raises(AirflowSkipException, match=run_id):
        run_task(sensor(workflow_id="slow", run_id=run_id, timeout=0.1, soft_fail=True))


def test_on_paused_fail_fails_the_sensor(run_task, start, deferrable):
    run_id = start("paused", {"message": "x"})
    with pytest.raises(AirflowFailException, match="waits for a person"):
        run_task(sensor(workflow_id="paused", run_id=run_id, on_paused="fail", deferrable=deferrable))


def test_on_paused_return_reports_the_approval_url(run_task, start, deferrable):
    run_id = start("paused", {"message": "x"})
    report = run_task(sensor(workflow_id="paused", run_id=run_id, on_paused="return", deferrable=deferrable))
    assert report["approval_url"].endswith(f"/resume/paused/{run_id}")


def test_invalid_on_paused_is_rejected(run_task, emulator):
    with pytest.raises(SimInputError, match="wait, fail, return"):
        run_task(sensor(workflow_id="slow", run_id="r", on_paused="hope"))
    assert emulator.requests == []


def test_do_xcom_push_false_pushes_nothing(run_task, context, start):
    run_id = start("echo_plain", {"message": "hi"})
    assert run_task(sensor(workflow_id="echo_plain", run_id=run_id, do_xcom_push=False))["result"]["message"] == "hi"
    assert context["ti"].xcoms == {}


@pytest.mark.parametrize("ended", [True, False])
def test_deferral_timeout_polls_once_more(context, emulator, start, ended):
    run_id = start("slow", {"seconds": 60, "message": "hi"})
    task = sensor(workflow_id="slow", run_id=run_id, deferrable=True)
    emulator.clock.advance(61 if ended else 0)
    resume = {"next_method": "__fail__", "next_kwargs": {"error": "Trigger timeout"}, "context": context}
    if ended:
        assert task.resume_execution(**resume)["result"]["message"] == "hi"
        return
    with pytest.raises(AirflowSensorTimeout, match=run_id):
        task.resume_execution(**resume)


@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize(
    "way",
    [
        pytest.param({}, id="poked"),
        pytest.param(
            {"mode": "reschedule"},
            id="rescheduled",
            marks=needs_airflow("3.0", "the first look's time as the task instance tells it"),
        ),
        pytest.param({"deferrable": True}, id="deferred"),
    ],
)
@pytest.mark.usefixtures("run_task")
def test_cancel_on_timeout_cancels_the_run(context, emulator, start, way, soft_fail):
    run_id = start("slow", {"seconds": 60})
    context["ti"] = Rescheduled(datetime.now(tz=UTC) - timedelta(seconds=1))
    task = sensor(workflow_id="slow", run_id=run_id, timeout=0.1, cancel_on_timeout=True, soft_fail=soft_fail, **way)

    def run():
        try:
            task.execute(context)
        except TaskDeferred as deferral:
            task.resume_execution(deferral.method_name, {"event": fire(deferral.trigger)}, context)

    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout):
        run()
    assert emulator.runs[0].status == "cancelled"


def test_failed_run_is_not_cancelled(run_task, emulator, start):
    run_id = start("failing", {"message": "x"})
    with pytest.raises(AirflowSkipException):
        run_task(sensor(workflow_id="failing", run_id=run_id, soft_fail=True, cancel_on_timeout=True))
    assert not [request for request in emulator.requests if "cancel" in request.path]


def test_failed_cancellation_is_logged(run_task, start, caplog, emulator):
    run_id = start("slow", {"seconds": 60})
    emulator.fault("server_error", match="cancel", times=None, status=404, page=True)
    task = sensor(workflow_id="slow", run_id=run_id, deferrable=True, timeout=0.1, cancel_on_timeout=True)
    with pytest.raises(AirflowSensorTimeout):
        run_task(task)
    assert "could not be cancelled" in caplog.text


def test_deferral_timeout_is_later_than_the_trigger_deadline(context, start):
    run_id = start("slow", {"seconds": 60})
    with pytest.raises(TaskDeferred) as deferral:
        sensor(workflow_id="slow", run_id=run_id, deferrable=True, timeout=100).execute(context)
    assert deferral.value.timeout.total_seconds() > 100


@pytest.mark.sim_emulator(profile="v0.5.44")
def test_sensor_accepts_a_job_id_of_the_legacy_api(run_task, start, deferrable):
    job_id = start("slow", {"seconds": 0.2, "message": "hi"})
    assert "hi" in str(run_task(sensor(workflow_id="slow", run_id=job_id, deferrable=deferrable)))


def test_failed_poll_is_retried(run_task, start, emulator):
    run_id = start("slow", {"seconds": 0.2, "message": "hi"})
    emulator.state.limits.admission_gate = 0
    looks = []

    def open_gate(request):
        looks.append(request)
        emulator.state.limits.admission_gate = None

    emulator.on_request(open_gate)
    assert run_task(sensor(workflow_id="slow", run_id=run_id))
    assert len(looks) > 1


class Rescheduled(TaskInstance):
    """A task instance that was rescheduled before: it knows when it looked for the first time."""

    def __init__(self, first_look):
        super().__init__()
        self.get_first_reschedule_date = lambda context: first_look


def test_rescheduled_sensor_fails_if_the_run_stays_unknown(context):
    def look(seconds_ago):
        first = datetime.now(tz=UTC) - timedelta(seconds=seconds_ago)
        context["ti"] = Rescheduled(first)
        sensor(workflow_id="slow", run_id="nowhere", mode="reschedule").execute(context)

    with pytest.raises(AirflowRescheduleException):
        look(seconds_ago=10)
    with pytest.raises(SimRunNotFoundError, match="no such run"):
        look(seconds_ago=100)


class TestAdaptiveInterval:
    """Without ``poke_interval``."""

    def sensor(self, **arguments):
        return SimJobSensor(task_id="s", workflow_id="slow", timeout=600, **arguments)

    @pytest.mark.parametrize(
        ("arguments", "age", "interval"),
        [
            pytest.param({}, 0, (1.0, 1.1), id="soon after the start"),
            pytest.param({}, 100, (10.0, 11.5), id="a tenth of the run's age"),
            pytest.param({"mode": "reschedule"}, 0, (10.0, 10.0), id="rescheduled: not too soon for Airflow"),
            pytest.param({"mode": "reschedule"}, 200, (20.0, 22.5), id="rescheduled later"),
            pytest.param({"poke_interval": 7}, 100, (7.0, 7.0), id="a number is honored"),
        ],
    )
    @pytest.mark.usefixtures("connection")
    def test_poke_interval_adapts_to_the_age_of_the_run(self, context, start, arguments, age, interval):
        run_id = start("slow", {"seconds": 1000})
        task = self.sensor(run_id=run_id, **arguments)
        task._deadline = None
        with task.hook:
            assert not task.poke(context).is_done
            task._state.started -= age
            least, most = interval
            assert least <= task._get_next_poke_interval(None, lambda: 0.0, 1) <= most

    @pytest.mark.usefixtures("connection")
    def test_trigger_adapts_its_interval_without_poke_interval(self, context, start):
        run_id = start("slow", {"seconds": 1000})
        for arguments, expected in (({}, None), ({"poke_interval": 7}, 7)):
            with pytest.raises(TaskDeferred) as deferral:
                self.sensor(run_id=run_id, deferrable=True, **arguments).execute(context)
            assert deferral.value.trigger.run_options.poll_interval == expected
