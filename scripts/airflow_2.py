"""Trigger, clear, mark and delete in Airflow 2 as its web UI does, without a webserver.

:class:`scripts.real_airflow.RealAirflow` runs this module as a process of its Airflow. It reads an action and its
arguments as a JSON object per line, and prints a line with the result.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

ANSWER = "ANSWER "
"""What a line with a result starts with: Airflow's own lines go to stdout as well."""


def main() -> None:
    """Answer until stdin is closed."""
    for line in sys.stdin:
        command = json.loads(line)
        try:
            ACTIONS[command.pop("action")](**command)
            answer = None
        except Exception as error:
            answer = repr(error)
        print(ANSWER + json.dumps(answer), flush=True)


def trigger(dag_id: str, run_id: str, conf: dict[str, Any], logical_date: str | None) -> None:
    """Create a queued DAG run."""
    from airflow.api.common.trigger_dag import trigger_dag

    date = None if logical_date is None else datetime.fromisoformat(logical_date)
    trigger_dag(dag_id, run_id=run_id, conf=conf, execution_date=date, replace_microseconds=False)


def clear(dag_id: str, run_id: str, task_id: str, map_index: int) -> None:
    """Clear a task instance."""
    from airflow.models.dagbag import DagBag
    from airflow.models.taskinstance import TaskInstance, clear_task_instances
    from airflow.utils.session import create_session

    with create_session() as session:
        names = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
        tis = session.query(TaskInstance).filter_by(**names).all()
        clear_task_instances(tis, session, dag=DagBag(read_dags_from_db=True).get_dag(dag_id, session=session))


def mark(dag_id: str, run_id: str, task_id: str, map_index: int, state: str) -> None:
    """Mark a task instance."""
    from airflow.models.dagbag import DagBag
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState

    with create_session() as session:
        dag = DagBag(read_dags_from_db=True).get_dag(dag_id, session=session)
        dag.set_task_instance_state(
            task_id=task_id,
            map_indexes=[map_index],
            run_id=run_id,
            state=TaskInstanceState(state),
            commit=True,
            session=session,
        )


def delete(dag_id: str, run_id: str) -> None:
    """Delete a DAG run with its task instances."""
    import airflow.providers.fab.auth_manager.models  # noqa: F401  the authors of its notes
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        session.delete(session.query(DagRun).filter_by(dag_id=dag_id, run_id=run_id).one())


ACTIONS = {"trigger": trigger, "clear": clear, "mark": mark, "delete": delete}

if __name__ == "__main__":
    main()
