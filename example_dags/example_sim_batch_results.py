"""Write the results of a batch to a CSV file, and alert if inputs have failed."""

from __future__ import annotations

import csv

from airflow.providers.common.compat.sdk import ObjectStoragePath, dag, task  # for Airflow 3 only: airflow.sdk

from airflow_provider_sim.notifications.sim import SimNotifier
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator

FOLDER = ObjectStoragePath("file:///tmp/sim_reviews")  # or s3://aws_default@bucket/reviews
alert = SimNotifier(workflow_id="hello", input={"name": "team, {{ exception }}"})


@dag(dag_id="example_sim_batch_results", schedule=None, catchup=False, tags=["sim"])
def example_sim_batch_results():
    @task
    def names() -> list[dict]:
        return [{"name": name} for name in ("Ada", "Grace", "Katherine")]

    inputs = names()
    greet = SimExecuteWorkflowBatchOperator(
        task_id="greet",
        workflow_id="hello",
        inputs=inputs,
        on_error="collect",  # status, output or error, and run_id for each input, in their order
        deferrable=True,
    )

    @task
    def write(inputs: list[dict], results: list[dict], run_id: str | None = None) -> str:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{run_id}.csv"
        with path.open("w") as file:
            table = csv.writer(file)
            table.writerow(["name", "status", "text", "error", "run_id"])
            for given, result in zip(inputs, results, strict=True):
                text = (result.get("output") or {}).get("content")
                table.writerow([given["name"], result["status"], text, result.get("error"), result["run_id"]])
        return str(path)

    @task(on_failure_callback=alert)
    def check(results: list[dict]) -> str:
        errors = [result["error"] for result in results if result["status"] != "completed"]
        if errors:
            raise ValueError(f"{len(errors)} of {len(results)} inputs failed: {errors}")
        return f"all {len(results)} inputs completed"

    write(inputs, greet.output)
    check(greet.output)


example_sim_batch_results()
