"""A DAG that doesn't wait, to measure the cost of the downstream task."""

from __future__ import annotations

from airflow.sdk import DAG, task


@task
def after():
    """Downstream task of the run."""


with DAG("nothing", schedule=None):
    after()
