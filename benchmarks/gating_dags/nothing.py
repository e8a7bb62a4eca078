"""No waiting: what the task after it costs alone."""

from __future__ import annotations

from airflow.sdk import DAG, task


@task
def after():
    """What the run holds up."""


with DAG("nothing", schedule=None):
    after()
