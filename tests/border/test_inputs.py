"""Workflow inputs as DAG authors pass them, under ``dag.test()``."""

from __future__ import annotations

import pytest

from airflow_provider_sim.emulator import Match

pytestmark = pytest.mark.airflow

TEXTS_AND_FIELDS = """
    with DAG("d", schedule=None):
        Op(task_id="json_text", workflow_id="review", input='{"text": "a"}')
        Op(task_id="template", workflow_id="review", input="{{ {'text': 'b'} | tojson }}")
        Op(task_id="plain_text", workflow_id="review", input="please review")
        Op(task_id="misspelled", workflow_id="review", input={"txt": "c"})
        Op(task_id="misspelled_fails", workflow_id="review", input={"txt": "c"}, check_input="fail")
        Op(task_id="missing", workflow_id="review", input={})
        Op(task_id="missing_fails", workflow_id="review", check_input="fail")
        Op(task_id="below_input", workflow_id="review", input={"input": {"text": "f"}}, check_input="fail")
        Op(task_id="unchecked", workflow_id="unchecked", input={"txt": "d"}, check_input="off")
        Op(task_id="throttled", workflow_id="throttled", input={"txt": "e"})
        Op(task_id="anything", workflow_id="no_input_format", input={"txt": "e"}, check_input="fail")
        Batch(task_id="batch", workflow_id="batched", poll_interval=0.5,
              inputs=['{"text": "a"}', {"txt": "b"}, {"txt": "c"}])
        Batch(task_id="batch_of_texts", workflow_id="batched", inputs=["a", "b"], poll_interval=0.5)
        Batch(task_id="batch_fails", workflow_id="batched", inputs=[{"text": "a"}, {"txt": "b"}], check_input="fail")

        @task.sim_workflow(workflow_id="review", check_input="fail")
        def decorated():
            return {"txt": "g"}

        decorated()
"""

LISTS = """
    with DAG("lists", schedule=None):
        @task
        def one(x):
            return {"n": x}

        mapped = one.expand(x=[1, 2])
        Op(task_id="field", workflow_id="echo_all", input={"all": mapped})
        Op(task_id="below", workflow_id="echo_all", input={"all": [mapped, {"mapped": mapped}]})
        Op(task_id="alone", workflow_id="no_input_format", input=mapped)
        Batch(task_id="batch", workflow_id="echo_all", inputs=[{"all": mapped}], poll_interval=0.5)
        Batch(task_id="batch_of_maps", workflow_id="echo_all", poll_interval=0.5,
              inputs=mapped.map(lambda x: {"all": x}))

        @task.sim_workflow(workflow_id="echo_all")
        def function(outputs):
            return {"all": outputs}

        function(mapped)

        @task.sim_workflow(workflow_id="never")
        def contains_itself():
            endless = []
            endless += [endless, endless]
            return {"all": endless}

        contains_itself()

        @task.sim_workflow(workflow_id="never")
        def deep():
            value = []
            for _ in range(3000):
                value = [value]
            return value

        deep()
"""

FILES = """
    with DAG("files", schedule=None):
        path = "FOLDER/f{{ ti.map_index }}.txt"
        Op.partial(task_id="mapped", workflow_id="files", input={"papers": [SimFile(path)]}).expand(
            timeout=[60, 60]
        )
        Op.partial(task_id="mapped_input", workflow_id="files").expand(
            input=[{"papers": SimFile(path)}, {"papers": SimFile(path)}]
        )
        Op(task_id="alone", workflow_id="files", input={"papers": SimFile("FOLDER/f1.txt", name="{{ task.task_id }}")})

        @task.sim_workflow(workflow_id="files")
        def decorated(paper, n):
            return {"papers": paper}

        decorated.partial(paper=SimFile(path)).expand(n=[1, 2])
        Op.partial(
            task_id="deferred", workflow_id="files", input={"papers": [SimFile(path)]}, deferrable=True,
            poll_interval=0.5,
        ).expand(timeout=[60, 60])
"""


def test_inputs_reach_the_workflow_or_fail_with_a_reason(dag_test, sim, tmp_path):
    for name in ("review", "unchecked", "throttled", "batched"):
        sim.workflow(name, inputs={"text": "string"})(lambda given: given)
    sim.workflow("echo_all", inputs={"all": "array"})(lambda given: given)
    sim.workflow("never", inputs={"all": "array"})(lambda given: given)
    sim.workflow("files", inputs={"papers": "file[]"})(lambda given: [file["name"] for file in given["papers"]])
    sim.fault("rate_limit", kind="requests", match=Match(operation="workflow", workflow_id="throttled"), times=None)
    for number in range(2):
        (tmp_path / f"f{number}.txt").write_text(str(number))
    result = dag_test(TEXTS_AND_FIELDS + LISTS + FILES.replace("FOLDER", str(tmp_path)), "d", "lists", "files")

    def outputs(dag_id):
        return {
            name: report.output if report.state == "success" else report.state
            for name, report in result.reports_of(dag_id).items()
        }

    assert outputs("d") == {
        "json_text": {"text": "a"},
        "template": {"text": "b"},
        "plain_text": "failed",
        "misspelled": {"text": ""},
        "misspelled_fails": "failed",
        "missing": {"text": ""},
        "missing_fails": "failed",
        "below_input": {"text": "f"},
        "unchecked": {"text": ""},
        "throttled": {"text": ""},
        "anything": {"result": {"input": {"txt": "e"}}, "stdout": ""},
        "batch": [{"text": "a"}, {"text": ""}, {"text": ""}],
        "batch_of_texts": "failed",
        "batch_fails": "failed",
        "decorated": "failed",
    }
    assert len(sim.runs_of("review")) == 5
    assert len(sim.runs_of("batched")) == 3
    log = result.log
    assert "SimInputError: The input for workflow 'review' is a string, but not the JSON text of an object" in log
    assert "inputs[0] is invalid: The input for workflow 'batched' is a string" in log
    mismatch = "The input doesn't match the fields that workflow 'review' declares (text: string)"
    assert f"{mismatch}: Sim drops the undeclared 'txt', and the missing 'text' will be empty" in log
    assert f"{mismatch}: the missing 'text' will be empty" in log
    assert f"SimInputError: {mismatch}: Sim drops the undeclared 'txt'" in log
    assert "or have a default (2 of 3 inputs)" in log
    assert "'throttled' declares" not in log
    asked = [
        request.path.rpartition("/")[2] for request in sim.requests if request.path.startswith("/api/v2/workflows/")
    ]
    assert (asked.count("throttled"), asked.count("batched")) == (1, 2)

    all_of_them = [{"n": 1}, {"n": 2}]
    assert {name: output for name, output in outputs("lists").items() if not name.startswith("one[")} == {
        "field": {"all": all_of_them},
        "below": {"all": [all_of_them, {"mapped": all_of_them}]},
        "alone": {"result": {"input": {"input": all_of_them}}, "stdout": ""},
        "batch": [{"all": all_of_them}],
        "batch_of_maps": [{"all": {"n": 1}}, {"all": {"n": 2}}],
        "function": {"all": all_of_them},
        "contains_itself": "failed",
        "deep": "failed",
    }
    assert sim.runs_of("never") == []
    assert log.count("SimInputError: The input for workflow 'never' is nested deeper than 100 levels") >= 2
    assert "RecursionError: " not in log, "as an error; Airflow 3.0 quotes the code around a raise"

    assert outputs("files") == {
        "mapped[0]": ["f0.txt"],
        "mapped[1]": ["f1.txt"],
        "mapped_input[0]": ["f0.txt"],
        "mapped_input[1]": ["f1.txt"],
        "alone": ["alone"],
        "decorated[0]": ["f0.txt"],
        "decorated[1]": ["f1.txt"],
        "deferred[0]": ["f0.txt"],
        "deferred[1]": ["f1.txt"],
    }
    assert sim.files == []
