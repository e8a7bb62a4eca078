"""Schedule a DAG whenever a run ends, whoever has started it (Airflow 3.0 and later)."""

from __future__ import annotations

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_sim.triggers.events import SimRunEventTrigger

# [START event_driven]
ended = Asset(
    "sim_runs_ended",
    watchers=[
        AssetWatcher(
            name="sim",
            trigger=SimRunEventTrigger(workflow_ids=["echo_plain", "failing"], statuses=["completed", "failed"]),
        )
    ],
)


@dag(dag_id="example_sim_event_driven", schedule=[ended], catchup=False, tags=["sim"])
def example_sim_event_driven():
    @task
    def report(triggering_asset_events=None) -> list[str]:
        runs = [event.extra["payload"] for event in triggering_asset_events.get(ended, [])]
        return [f"{run['workflow_id']} {run['status']} in {run['duration_ms']} ms: {run['run_id']}" for run in runs]

    report()


# [END event_driven]

example_sim_event_driven()
