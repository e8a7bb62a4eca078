"""DAGs with many sensors."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_sim.sensors.sim import SimJobSensor

for name, options in {"wide": {"deferrable": True}, "wide_in_triggerer": {"start_from_trigger": True}}.items():
    with DAG(name, schedule=None):
        for number in range(int(os.environ.get("BENCH_WIDE", "1"))):
            run_id = f"{{{{ dag_run.conf['sim_run_id'] }}}}-{number}"
            SimJobSensor(task_id=f"wait_{number}", workflow_id="gated", run_id=run_id, poke_interval=5, **options)
