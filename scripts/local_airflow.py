"""A real Airflow in a folder of its own, with the example DAGs and a Sim connection to an emulator.

The demo shows its reports as a table; the tests run it as a command of its own, which prints them as JSON:
``python -m scripts.local_airflow --home FOLDER --sim-url URL --sim-key KEY DAG_ID...``. Without a DAG it only makes the
folder, for copies of it to be used with ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
EXAMPLE_DAGS = REPO / "example_dags"


@dataclass(frozen=True)
class TaskReport:
    """How one task instance ended.

    :param output: its XCom ``return_value``.
    :param seconds: from its start to its end.
    """

    dag_id: str
    task_id: str
    map_index: int
    mode: str
    state: str
    run_id: str | None
    run_url: str | None
    output: Any
    seconds: float | None


def environment(home: Path, *, sim_url: str, sim_key: str, dags: Path = EXAMPLE_DAGS, **extra: Any) -> dict[str, str]:
    """The environment variables that make an Airflow of this folder, with the connection ``sim_default``."""
    connection = {"conn_type": "sim", "host": sim_url, "password": sim_key, "extra": extra}
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__DAG_PROCESSOR__DISABLE_BUNDLE_VERSIONING": "True",
        "AIRFLOW_CONN_SIM_DEFAULT": json.dumps(connection),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
    }


def create(home: Path) -> None:
    """Make the folder anew, with an empty metadata database; the environment must be set already.

    :raises subprocess.CalledProcessError: the migration failed; its output is in the error.
    """
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, text=True)


def run_dag(dag_id: str) -> list[TaskReport]:
    """Run one DAG to its end in this process and report its tasks, in the order of their start.

    :raises LookupError: there is no such DAG, or a DAG file can't be read.
    """
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors or dag_id not in bag.dags:
        raise LookupError(f"DAG {dag_id!r} can't be run: {bag.import_errors or 'there is none of this name'}")
    dag = bag.dags[dag_id]
    finished = dag.test()
    instances = sorted(finished.get_task_instances(), key=lambda ti: (ti.start_date is None, ti.start_date))
    return [_report(dag.get_task(ti.task_id), ti) for ti in instances]


def _report(task: Any, ti: Any) -> TaskReport:
    def xcom(key: str) -> Any:
        return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)

    return TaskReport(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        map_index=ti.map_index,
        mode=mode_of(task),
        state=str(ti.state),
        run_id=xcom("run_id"),
        run_url=xcom("run_url"),
        output=xcom("return_value"),
        seconds=(ti.end_date - ti.start_date).total_seconds() if ti.end_date and ti.start_date else None,
    )


def mode_of(task: Any) -> str:
    """How a Sim task waits, in a few words."""
    arguments = {**vars(task), **getattr(task, "partial_kwargs", {})}
    kind = task.task_type
    if kind == "SimJobSensor":
        return "sensor, deferred" if arguments.get("deferrable") else f"sensor, {arguments.get('mode', 'poke')}"
    if kind != "SimExecuteWorkflowOperator":
        return "Python"
    if arguments.get("stream"):
        return "streamed"
    if not arguments.get("wait_for_completion", True):
        return "asynchronous, not waiting"
    if arguments.get("deferrable"):
        return "asynchronous, deferred"
    return "asynchronous" if arguments.get("async_execution") else "held open"


def main(arguments: list[str] | None = None) -> int:
    """Run DAGs and print a JSON list of their tasks' reports on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--dags", type=Path, default=EXAMPLE_DAGS)
    parser.add_argument("--sim-url", required=True)
    parser.add_argument("--sim-key", required=True)
    parser.add_argument("--keep", action="store_true", help="use the folder as it is")
    parser.add_argument("dag_ids", metavar="DAG_ID", nargs="*")
    options = parser.parse_args(arguments)
    os.environ.update(environment(options.home, sim_url=options.sim_url, sim_key=options.sim_key, dags=options.dags))
    if not options.keep:
        create(options.home)
    reports = [report for dag_id in options.dag_ids for report in run_dag(dag_id)]
    print(json.dumps([asdict(report) for report in reports], default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
