"""``SimJobSensor`` under ``dag.test()``: outcomes, links and timeouts in each mode."""

import re

import pytest

from airflow_provider_sim.emulator import BlockError
from tests.versions import AIRFLOW, needs_airflow

pytestmark = pytest.mark.airflow

MODES = """
modes = {
    "poke": {},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
    "ends_in_trigger": {"deferrable": True, "end_from_trigger": True},
    "starts_in_trigger": {"start_from_trigger": True, "end_from_trigger": True},
}
last = None

def sensor(task_id, workflow_id, **options):
    # One after another: dag.test() would start all runs first.
    global last
    start = Op(task_id=f"start_{task_id}", workflow_id=workflow_id, wait_for_completion=False, trigger_rule="all_done")
    if last is not None:
        last >> start
    last = Sensor(task_id=task_id, workflow_id=workflow_id, run_id=start.output, poke_interval=1, **options)

"""
if AIRFLOW.release[:2] == (3, 0):
    MODES += 'del modes["reschedule"]'  # dag.test() of 3.0 passes it the time of its first poll as text


@pytest.fixture(autouse=True)
def _workflows(sim):
    @sim.workflow("bad")
    def bad(given):
        raise BlockError("no such table", block="Load")

    @sim.workflow("bad_later", duration=4)
    def bad_later(given):
        raise BlockError("no such table", block="Load")

    sim.workflow("long", duration=600)(lambda given: {"ok": True})
    sim.workflow("brief", duration=4)(lambda given: {"ok": True})


def test_each_mode_returns_the_output_and_pushes_links(dag_test, sim):
    result = dag_test(
        MODES
        + """
with DAG("d", schedule=None):
    for name, mode in modes.items():
        sensor(name, "brief", **mode)
"""
    )
    assert set(result.states.values()) == {"success"}, result.log[-10_000:]
    for task_id in (name for name in result.states if not name.startswith("start_")):
        xcoms, run_id = result.xcoms(task_id), result.outputs[f"start_{task_id}"]
        assert xcoms["return_value"] == {"ok": True}
        assert xcoms["approval_url"] == f"{sim.url}/resume/brief/{run_id}"
        assert {"run_url", "workflow_url", "run_details"} <= set(xcoms)
        assert not [key for key in xcoms if key.startswith("_link_")], "Airflow 3 reads the pushed XComs"


def test_soft_fail_and_never_fail_skip_in_each_mode(dag_test):
    result = dag_test(
        MODES
        + """
with DAG("d", schedule=None):
    for name, mode in modes.items():
        sensor(f"soft_{name}", "bad_later", soft_fail=True, **mode)
    for name in ("poke", "deferrable"):
        sensor(f"never_{name}", "bad_later", never_fail=True, **modes[name])
    sensor("soft_at_once", "bad", soft_fail=True, deferrable=True)
    sensor("never_at_once", "bad", never_fail=True, deferrable=True)
"""
    )
    states = {name: state for name, state in result.states.items() if not name.startswith("start_")}
    assert set(states.values()) == {"skipped"}, result.log[-20_000:]
    assert "no such table" in result.log


def test_unknown_run_and_missing_run_id_are_the_same_error_in_each_mode(dag_test, sim):
    result = dag_test(
        MODES
        + """
with DAG("d", schedule=None):
    for name, mode in modes.items():
        how = {"workflow_id": "brief", "poke_interval": 1, "timeout": 4, "retries": 2, **mode}
        Sensor(task_id=f"none_{name}", run_id="{{ ti.xcom_pull(task_ids='nobody', map_indexes=-1) }}", **how)
        Sensor(task_id=f"unknown_{name}", run_id="airflow-11111111-2222-4333-8444-555555555555", **how)
"""
    )
    assert set(result.states.values()) == {"failed"}, "not up_for_retry"
    no_id = set(re.findall(r"SimInputError: (run_id is .*)", result.log))
    assert len(no_id) == 1
    assert "there is no run" in no_id.pop()
    unknown = set(re.findall(r"SimRunNotFoundError: (Could not read .*), request", result.log))
    assert len(unknown) == 1
    assert "no such run of this workflow" in unknown.pop()
    polls = [seen for seen in sim.requests if "None" in seen.path]
    assert not polls


def test_timeouts_end_deferred_and_poked_sensors_alike(dag_test, sim):
    result = dag_test(
        """
with DAG("d", schedule=None):
    start = Op(task_id="start", workflow_id="long", wait_for_completion=False)
    for name, mode in {"poke": {}, "deferrable": {"deferrable": True}}.items():
        how = {"workflow_id": "long", "run_id": start.output, "poke_interval": 1, **mode}
        Sensor(task_id=f"timeout_{name}", timeout=4, retries=1, **how)
        Sensor(task_id=f"soft_{name}", timeout=4, soft_fail=True, **how)
"""
    )
    assert result.states == {
        "start": "success",
        "timeout_poke": "failed",
        "timeout_deferrable": "failed",
        "soft_poke": "skipped",
        "soft_deferrable": "skipped",
    }, result.log[-20_000:]
    assert [run.status for run in sim.runs] == ["running"]


@needs_airflow("3.0", "dag.test() that survives an AirflowTaskTimeout")
def test_execution_timeout_counts_from_the_start_in_the_triggerer_too(dag_test, sim):
    result = dag_test(
        """
with DAG("d", schedule=None):
    start = Op(task_id="start", workflow_id="long", wait_for_completion=False)
    limit = {"workflow_id": "long", "execution_timeout": timedelta(seconds=4)}
    for name, mode in {"poke": {}, "deferrable": {"deferrable": True}}.items():
        Sensor(task_id=name, run_id=start.output, poke_interval=1, timeout=600, **limit, **mode)
    Op(task_id="operator", deferrable=True, poll_interval=1, **limit)
"""
    )
    states = {"start": "success", "poke": "failed", "deferrable": "failed", "operator": "failed"}
    assert result.states == states, result.log[-20_000:]
    assert result.log.count("AirflowTaskTimeout: ") >= 2
    assert "SimRunTimeoutError: " in result.log
    assert sorted(run.status for run in sim.runs) == ["cancelled", "running"], "the operator's own run"


@pytest.mark.skipif(AIRFLOW.major > 2, reason="Airflow 3 applies execution_timeout to each process anew")
def test_task_resumed_after_its_execution_timeout_cancels_the_run(dag_test, sim):
    with pytest.raises(AssertionError, match="AirflowTaskTimeout"):  # dag.test() doesn't survive it
        dag_test(
            """
            def begun_long_ago(context):
                if context["ti"].next_method:
                    context["ti"].start_date = context["logical_date"] - timedelta(hours=1)

            with DAG("d", schedule=None):
                Op(
                    task_id="operator", workflow_id="long", deferrable=True, poll_interval=1,
                    execution_timeout=timedelta(seconds=4), pre_execute=begun_long_ago,
                )
            """
        )
    assert [run.status for run in sim.runs] == ["cancelled"]
