"""DAGs that wait without polling: what Airflow itself needs; ``conf`` contains the run's duration or end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk import DAG, BaseOperator, task
from airflow.triggers.base import BaseTrigger, TriggerEvent

INPUT = {"number": "{{ dag_run.conf['number'] }}", "seconds": "{{ dag_run.conf['seconds'] }}"}
WORKFLOW = "gated"


class KnownEndTrigger(BaseTrigger):
    """Fires at a moment that is known beforehand (a Unix time), without a request."""

    def __init__(self, moment: float) -> None:
        super().__init__()
        self.moment = moment

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the arguments, with a path that the triggerer can import."""
        return "benchmarks.gating_dags.known_end.KnownEndTrigger", {"moment": self.moment}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep until the moment."""
        await asyncio.sleep(self.moment - time.time())
        yield TriggerEvent({})


class KnownEndOperator(BaseOperator):
    """Defers until a run must be finished, which it starts with one request unless the end is given."""

    template_fields = ("input",)

    def __init__(self, *, input: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input = input

    def execute(self, context: Any) -> None:
        """Start the run, if any, and defer."""
        if "ends_at" in self.input:
            self.defer(trigger=KnownEndTrigger(float(self.input["ends_at"])), method_name="finish")

        import requests

        requests.post(
            f"{os.environ['BENCH_SIM_URL']}/api/v2/workflows/{WORKFLOW}/execute",
            json={"async": True, "input": self.input},
            headers={"X-API-Key": os.environ["BENCH_SIM_KEY"]},
            timeout=60,
        ).raise_for_status()
        moment = time.time() + float(self.input["seconds"])
        self.defer(trigger=KnownEndTrigger(moment), method_name="finish")

    def finish(self, context: Any, event: Any) -> None:
        """Succeed."""


@task
def after():
    """Downstream task of the run."""


with DAG("known_end", schedule=None):
    KnownEndOperator(task_id="wait", input=INPUT) >> after()

with DAG("known_end_sensor", schedule=None):
    KnownEndOperator(task_id="wait", input={"ends_at": "{{ dag_run.conf['ends_at'] }}"}) >> after()
