"""OpenLineage facets of runs; without its provider, no OpenLineage module is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_provider_sim.exceptions import SimRunFailedError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture
def extract():
    """Ask a task for its facets as OpenLineage's provider does; give those of the job and of the run."""
    base = pytest.importorskip("airflow.providers.openlineage.extractors.base", reason="an Airflow without OpenLineage")

    def facets(task, when="extract_on_complete"):
        extractor = base.DefaultExtractor(task)
        found = extractor.extract() if when == "extract" else getattr(extractor, when)(None)
        return found.job_facets, found.run_facets

    return facets


def task(**arguments):
    return SimExecuteWorkflowOperator(**{"task_id": "t", "workflow_id": "echo_plain", "durable": False} | arguments)


@pytest.mark.parametrize("options", [{}, {"async_execution": True, "poll_interval": 0.01}], ids=["held open", "async"])
def test_facets_describe_workflow_and_completed_run(run_task, extract, emulator, options):
    operator = task(**options)
    job, run = extract(operator, "extract")
    assert (job["simWorkflow"].workflowId, run) == ("echo_plain", {})
    run_task(operator)
    job, run = extract(operator)
    [started] = emulator.runs
    told = run["simRun"]
    assert (told.runId, told.status, told.costUsd, told.startedBy) == (started.run_id, "completed", 0.005, "api")
    assert (run["externalQuery"].externalQueryId, run["externalQuery"].source) == (started.run_id, emulator.url)
    assert job["simWorkflow"].url.startswith(emulator.url)


def test_facets_describe_a_failed_run(run_task, extract, emulator):
    operator = task(workflow_id="failing", input={"message": "x"})
    with pytest.raises(SimRunFailedError):
        run_task(operator)
    _, run = extract(operator, "extract_on_failure")
    assert (run["simRun"].status, run["simRun"].runId) == ("failed", emulator.runs[0].run_id)
    assert "boom: x" in run["errorMessage"].message


def test_sensor_emits_its_run(run_task, extract):
    run_id = run_task(task(wait_for_completion=False))
    sensor = SimJobSensor(task_id="s", workflow_id="echo_plain", run_id=run_id, poke_interval=0.02)
    run_task(sensor)
    _, run = extract(sensor)
    assert run["simRun"].runId == run_id


def test_facets_are_empty_without_a_run(extract):
    _, run = extract(task(), "extract_on_failure")
    assert run == {}


@pytest.mark.slow
def test_task_does_not_import_openlineage(emulator):
    code = """
import sys
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
before = set(sys.modules)
SimExecuteWorkflowOperator(task_id="t", workflow_id="echo_plain").execute({"ti": None})
print([name for name in set(sys.modules) - before if "openlineage" in name or "lineage_facets" in name])
"""
    code = code.replace('workflow_id="echo_plain")', 'workflow_id="echo_plain", do_xcom_push=False, durable=False)')
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip().splitlines()[-1] == "[]"
