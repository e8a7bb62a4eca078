"""``SimJobSensor`` under ``dag.test()``: outcomes, links and timeouts in each mode."""

import re

import pytest
from packaging.version import Version

from airflow_provider_sim.emulator import BlockError, SimEmulator
from tests.airflow.bad_ends import KEY
from tests.border.conftest import run_each
from tests.versions import AIRFLOW, needs_airflow

pytestmark = pytest.mark.airflow

DAGS = """
modes = {
    "poke": {},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
    "ends_in_trigger": {"deferrable": True, "end_from_trigger": True},
    "starts_in_trigger": {"start_from_trigger": True, "end_from_trigger": True},
}
MODES_OF_3_0
two_modes = {"poke": {}, "deferrable": {"deferrable": True}}
last = None

def sensor(task_id, workflow_id, **options):
    # One after another: dag.test() would start all runs first.
    global last
    start = Op(task_id=f"start_{task_id}", workflow_id=workflow_id, wait_for_completion=False, trigger_rule="all_done")
    if last is not None:
        last >> start
    last = Sensor(task_id=task_id, workflow_id=workflow_id, run_id=start.output, poke_interval=1, **options)

with DAG("outputs", schedule=None):
    for name, mode in modes.items():
        sensor(name, "brief", **mode)

last = None
with DAG("soft_fails", schedule=None):
    for name, mode in modes.items():
        sensor(f"soft_{name}", "bad_later", soft_fail=True, **mode)

last = None
with DAG("skips", schedule=None):
    for name in two_modes:
        sensor(f"never_{name}", "bad_later", never_fail=True, **modes[name])
    sensor("soft_at_once", "bad", soft_fail=True, deferrable=True)
    sensor("never_at_once", "bad", never_fail=True, deferrable=True)

with DAG("unknown", schedule=None):
    for name, mode in modes.items():
        how = {"workflow_id": "brief", "poke_interval": 1, "timeout": 4, "retries": 2, **mode}
        Sensor(task_id=f"none_{name}", run_id="{{ ti.xcom_pull(task_ids='nobody', map_indexes=-1) }}", **how)
        Sensor(task_id=f"unknown_{name}", run_id="airflow-11111111-2222-4333-8444-555555555555", **how)

with DAG("timeouts", schedule=None):
    start = Op(task_id="start", workflow_id="long", wait_for_completion=False)
    for name, mode in two_modes.items():
        how = {"workflow_id": "long", "run_id": start.output, "poke_interval": 1, **mode}
        Sensor(task_id=f"timeout_{name}", timeout=4, retries=1, **how)
        Sensor(task_id=f"soft_{name}", timeout=4, soft_fail=True, **how)

with DAG("execution_timeouts", schedule=None):
    start = Op(task_id="start", workflow_id="longer", wait_for_completion=False)
    limit = {"workflow_id": "longer", "execution_timeout": timedelta(seconds=4)}
    for name, mode in two_modes.items():
        Sensor(task_id=name, run_id=start.output, poke_interval=1, timeout=600, **limit, **mode)
    Op(task_id="operator", deferrable=True, poll_interval=1, **limit)
"""
# dag.test() of Airflow 3.0 passes a rescheduled sensor the time of its first poll as text.
DAGS = DAGS.replace("MODES_OF_3_0", 'del modes["reschedule"]' if AIRFLOW.release[:2] == (3, 0) else "")
DAG_IDS = ["outputs", "soft_fails", "skips", "unknown", "timeouts"]
if AIRFLOW.major > 2:  # dag.test() of Airflow 2 doesn't survive an AirflowTaskTimeout
    DAG_IDS.append("execution_timeouts")


def add_workflows(emulator):
    @emulator.workflow("bad")
    def bad(given):
        raise BlockError("no such table", block="Load")

    @emulator.workflow("bad_later", duration=3)
    def bad_later(given):
        raise BlockError("no such table", block="Load")

    emulator.workflow("long", duration=600)(lambda given: {"ok": True})
    emulator.workflow("longer", duration=600)(lambda given: {"ok": True})
    emulator.workflow("brief", duration=3)(lambda given: {"ok": True})


@pytest.fixture(scope="module")
def emulator():
    with SimEmulator(api_key=KEY) as emulator:
        add_workflows(emulator)
        yield emulator


@pytest.fixture(scope="module")
def results(new_home, tmp_path_factory, emulator):
    """Results by DAG ID."""
    return run_each(new_home, tmp_path_factory.mktemp("sensor"), emulator, DAGS, *DAG_IDS)


def test_each_mode_returns_the_output_and_pushes_links(results, emulator):
    result = results["outputs"]
    reports = result.reports_of("outputs")
    assert {report.state for report in reports.values()} == {"success"}, result.log[-10_000:]
    for task_id in (name for name in reports if not name.startswith("start_")):
        xcoms, run_id = result.xcoms(task_id, dag_id="outputs"), reports[f"start_{task_id}"].output
        assert xcoms["return_value"] == {"ok": True}
        assert xcoms["run_details"]["run_id"] == run_id
        assert "run_url" in xcoms
        # Triggers before Airflow 3.3 push no XComs, so that a worker pushes the link in case the run is paused.
        assert ("approval_url" in xcoms) == (Version("3.3") > AIRFLOW and task_id not in ("poke", "reschedule"))
        assert not [key for key in xcoms if key.startswith("_link_")], "Airflow 3 reads the pushed XComs"


@pytest.mark.parametrize("dag_id", ["soft_fails", "skips"])
def test_soft_fail_and_never_fail_skip_in_each_mode(results, dag_id):
    result = results[dag_id]
    states = {name: state for name, state in result.states_of(dag_id).items() if not name.startswith("start_")}
    assert set(states.values()) == {"skipped"}, result.log[-20_000:]
    assert "no such table" in result.log


def test_each_mode_raises_the_same_run_id_errors(results, emulator):
    result = results["unknown"]
    assert set(result.states_of("unknown").values()) == {"failed"}, "not up_for_retry"
    no_id = set(re.findall(r"SimInputError: (run_id is .*)", result.log))
    assert len(no_id) == 1
    assert "there is no run" in no_id.pop()
    unknown = set(re.findall(r"SimRunNotFoundError: (Could not read .*), request", result.log))
    assert len(unknown) == 1
    assert "no such run" in unknown.pop()
    polls = [seen for seen in emulator.requests if "None" in seen.path]
    assert not polls


def test_timeout_is_the_same_in_poke_and_deferrable_mode(results, emulator):
    result = results["timeouts"]
    assert result.states_of("timeouts") == {
        "start": "success",
        "timeout_poke": "failed",
        "timeout_deferrable": "failed",
        "soft_poke": "skipped",
        "soft_deferrable": "skipped",
    }, result.log[-20_000:]
    assert [run.status for run in emulator.runs_of("long")] == ["running"]


@needs_airflow("3.0", "dag.test() that survives an AirflowTaskTimeout")
def test_execution_timeout_counts_from_the_start_in_the_triggerer_too(results, emulator):
    result = results["execution_timeouts"]
    states = {"start": "success", "poke": "failed", "deferrable": "failed", "operator": "failed"}
    assert result.states_of("execution_timeouts") == states, result.log[-20_000:]
    assert result.log.count("AirflowTaskTimeout: ") >= 2
    assert "SimRunTimeoutError: " in result.log
    statuses = sorted(run.status for run in emulator.runs_of("longer"))
    assert statuses == ["cancelled", "running"], "the operator's own run is cancelled"


@pytest.mark.skipif(AIRFLOW.major > 2, reason="Airflow 3 applies execution_timeout to each process anew")
def test_task_resumed_after_its_execution_timeout_cancels_the_run(dag_test, sim):
    add_workflows(sim)
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
