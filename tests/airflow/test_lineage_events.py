"""OpenLineage events of an example DAG on a real Airflow."""

from __future__ import annotations

import json

import pytest

from airflow_provider_sim.emulator import SimEmulator
from tests.airflow.conftest import KEY, run_in

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


def test_openlineage_events_contain_workflow_run_and_cost(new_home, tmp_path, monkeypatch):
    events = tmp_path / "events.json"
    config = tmp_path / "openlineage.yml"
    config.write_text(f"transport:\n  type: file\n  log_file_path: {events}\n  append: true\n")
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(config))
    with SimEmulator(api_key=KEY) as sim:
        ran = run_in(new_home("lineage"), sim, "example_sim_sync")
        [run] = sim.runs
    assert {report.state for report in ran.reports.values()} == {"success"}
    emitted = [json.loads(line) for line in events.read_text().splitlines()]
    [ended] = [event for event in emitted if "simRun" in event["run"]["facets"]]
    assert ended["eventType"] == "COMPLETE"
    facet = ended["run"]["facets"]["simRun"]
    assert (facet["runId"], facet["status"], facet["workflowId"]) == (run.run_id, "completed", run.workflow_id)
    assert facet["costUsd"] > 0
    assert ended["job"]["facets"]["simWorkflow"]["workflowId"] == run.workflow_id
    assert KEY not in events.read_text()
