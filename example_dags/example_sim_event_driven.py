"""Schedule a DAG when runs finish, regardless of what started them (Airflow 3.0 and later)."""

from __future__ import annotations

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_sim.triggers.events import SimRunEventTrigger

finished = Asset(
    "sim_runs_finished",
    watchers=[
        AssetWatcher(
            name="sim",
            trigger=SimRunEventTrigger(workflow_ids=["echo_plain", "failing"], statuses=["completed", "failed"]),
        )
    ],
)


@dag(dag_id="example_sim_event_driven", schedule=[finished], catchup=False, tags=["sim"])
def example_sim_event_driven():
    @task
    def report(triggering_asset_events=None) -> list[str]:
        events = triggering_asset_events.get(finished, [])
        runs = [run for event in events for run in event.extra["payload"]["runs"]]
        return [f"{run['workflow_id']} {run['status']} in {run['duration_ms']} ms: {run['run_id']}" for run in runs]

    report()


example_sim_event_driven()
