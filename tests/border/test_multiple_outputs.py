"""``multiple_outputs=True`` in every way to wait, on the installed Airflow."""

import pytest

from tests.versions import AIRFLOW

pytestmark = pytest.mark.airflow

MODES = {
    "sync": {},
    "streamed": {"stream": True},
    "asynchronous": {"async_execution": True},
    "deferrable": {"deferrable": True},
    "end_from_trigger": {"deferrable": True, "end_from_trigger": True},
}
STORES_NULL = AIRFLOW.release[:2] != (3, 0)
NOTHING = None if STORES_NULL else ""
OUTPUT = {"score": 7, "tags": ["a", "b"], "a b": NOTHING, "a.b": {"c": "d"}, "password": "p"}


def test_fields_are_xcoms_that_other_tasks_read(dag_test, sim):
    sim.workflow("judge", duration=0.2)(lambda given: OUTPUT)
    sim.workflow("null")(lambda given: {"a": None})
    result = dag_test(f"""
        def report(score, tags, default):
            return [score, tags, default]

        with DAG("d", schedule=None):
            how = {{"workflow_id": "judge", "multiple_outputs": True, "poll_interval": 0.5}}
            start = Op(task_id="start", workflow_id="judge", wait_for_completion=False)
            tasks = [Op(task_id=task_id, **mode, **how) for task_id, mode in {MODES!r}.items()]
            tasks += [
                Sensor(task_id=f"sensor_{{mode}}", workflow_id="judge", run_id=start.output, multiple_outputs=True,
                       poke_interval=0.5, deferrable=mode == "deferred")
                for mode in ("held", "deferred")
            ]

            @task.sim_workflow(**how)
            def decorated():
                return {{}}

            for one in [*tasks, decorated().operator]:
                fields = [one.output[name] for name in ("score", "tags", "a b")]
                task(report, task_id=f"report_{{one.task_id}}")(*fields)
            Op.partial(task_id="mapped", **how).expand(input=[{{}}, {{}}])
            Op(task_id="null", workflow_id="null", multiple_outputs=True)
            paused = Op(task_id="paused", workflow_id="paused", async_execution=True, poll_interval=0.5,
                        on_paused="return", multiple_outputs=True)
            task(report, task_id="report_paused")(*[paused.output[name] for name in ("run_id", "question", "fields")])
    """)
    states = result.states
    assert states.pop("null") == ("success" if STORES_NULL else "failed")
    if not STORES_NULL:  # and a report has fields that are null
        assert "a field that is null, which Airflow 3.0 can't store" in result.log
        assert {states.pop("paused"), states.pop("report_paused")} == {"failed", "upstream_failed"}
    assert set(states.values()) == {"success"}, result.log[-10_000:]
    for task_id in [*MODES, "sensor_held", "sensor_deferred", "decorated"]:
        xcoms = result.xcoms(task_id)
        assert {name: xcoms[name] for name in OUTPUT} == OUTPUT
        assert xcoms["return_value"] == OUTPUT
        assert xcoms["run_details"]["status"] == "completed"
        assert result.outputs[f"report_{task_id}"] == [7, ["a", "b"], NOTHING]
    assert [result.xcoms("mapped", map_index=index)["score"] for index in (0, 1)] == [7, 7]
    if STORES_NULL:
        run_id, question, fields = result.outputs["report_paused"]
        assert run_id == result.xcoms("paused")["run_details"]["run_id"]
        assert question == "Approve ?"
        assert set(fields) == {"approved", "comment"}
