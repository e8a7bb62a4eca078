"""A DAG that is scheduled whenever runs of ``brief`` finish, and returns their IDs."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_sim.triggers.events import SimRunEventTrigger

trigger = SimRunEventTrigger(workflow_ids=["brief"], poll_interval=2.0)
finished = Asset("ended_runs", watchers=[AssetWatcher(name="sim", trigger=trigger)])

with DAG("on_ended_runs", schedule=[finished]):

    @task
    def seen(triggering_asset_events=None) -> list[str]:
        events = triggering_asset_events[finished]
        return [run["run_id"] for event in events for run in event.extra["payload"]["runs"]]

    seen()
