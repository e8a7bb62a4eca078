"""A DAG that is scheduled whenever a run of ``brief`` ends."""

from __future__ import annotations

import os

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetWatcher

from airflow_provider_sim.triggers.events import SimRunEventTrigger

trigger = SimRunEventTrigger(
    workflow_ids=["brief"], poll_interval=1.0, airflow_conn_id=os.environ.get("EVENTS_AIRFLOW_CONN_ID") or None
)
ended = Asset("ended_runs", watchers=[AssetWatcher(name="sim", trigger=trigger)])

with DAG("on_ended_runs", schedule=[ended], max_active_runs=1):
    EmptyOperator(task_id="seen")
