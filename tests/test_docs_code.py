"""Python code of README and docs runs as a DAG file; the pages on the emulator and on testing have separate tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from tests.versions import needs_airflow

REPO = Path(__file__).parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
RUN_ELSEWHERE = {"emulator.md", "test-dags.md"}
CODE = {
    page.name: code
    for page in PAGES
    if page.name not in RUN_ELSEWHERE and (code := re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S))
}
AROUND = """
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, Param, task
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.runs import SimResumeRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

path = "paper.pdf"


@task
def tickets():
    return [{"text": "hi"}]
"""
"""Imports and tasks that the examples omit."""


def run(code: str, where: str, names: dict[str, Any]) -> None:
    exec(compile(code.replace("…", "echo"), where, "exec"), names)


@needs_airflow("3.0", "airflow.sdk")
def test_first_readme_example_is_a_complete_dag_file():
    file = ast.parse(CODE["README.md"][0].replace("…", "echo"))
    call = file.body.pop()
    assert isinstance(call, ast.Expr), "the file defines a DAG and never makes it"
    names: dict[str, Any] = {}
    run(ast.unparse(file), "README.md", names)
    dag = eval(compile(ast.Expression(call.value), "README.md", "eval"), names)
    assert {task: sorted(dag.get_task(task).downstream_task_ids) for task in dag.task_ids} == {
        "summary": ["start"],
        "start": ["done"],
        "done": ["letter"],
        "letter": [],
    }


@needs_airflow("3.1", "HITLOperator")
@pytest.mark.parametrize("page", CODE)
def test_examples_create_tasks(page):
    names: dict[str, Any] = {}
    run(AROUND, "omitted code", names)
    for number, code in enumerate(CODE[page]):
        with names["DAG"](f"code_{number}") as dag:
            run(code, f"{page}, code {number + 1}", names)
        dags = re.findall(r"^@dag.*\ndef (\w+)", code, re.M)
        assert all(f"\n{name}()\n" in code for name in dags), "a DAG is defined and never made"
        assert dags or set(re.findall(r'task_id="(\w+)"', code)) <= set(dag.task_ids)
