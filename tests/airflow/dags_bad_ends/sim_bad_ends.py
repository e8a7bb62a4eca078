"""Everything that may make someone print a key: wrong keys, servers that don't answer, runs that fail."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


@dag(dag_id="sim_bad_ends", schedule=None, catchup=False, default_args={"retries": 0})
def sim_bad_ends():
    def run(task_id: str, workflow_id: str = "echo", **arguments: object) -> None:
        SimExecuteWorkflowOperator(task_id=task_id, workflow_id=workflow_id, **arguments)

    run("failing_run", "failing", input={"message": "this one fails"})
    run("wrong_key", sim_conn_id="sim_wrong_key")
    run("wrong_key_in_the_database", sim_conn_id="sim_stored")
    run("key_with_a_line_break", sim_conn_id="sim_broken_key")
    run("key_in_the_address", sim_conn_id="sim_key_in_the_address")
    run("nobody_listens", sim_conn_id="sim_nobody", retry_args={"max_retries": 1, "initial_delay": 0})
    run("hangs_up_on_a_worker", sim_conn_id="sim_hangs_up")
    run(
        "hangs_up_on_the_triggerer",
        sim_conn_id="sim_hangs_up_later",
        check_input="off",
        deferrable=True,
        poll_interval=1,
    )
    run("throws_the_key_back", sim_conn_id="sim_mirror")
    run("waits_in_the_triggerer", "slow", input={"seconds": 8}, deferrable=True, poll_interval=10)


sim_bad_ends()
