"""The README's DAG, as somebody would copy it into a DAG file."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from tests.versions import needs_airflow

README = (Path(__file__).parents[1] / "README.md").read_text()
CODE = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@needs_airflow("3.0", "airflow.sdk")
def test_the_first_code_is_a_whole_dag_file():
    file = ast.parse(CODE[0].replace("…", "echo"))
    call = file.body.pop()
    assert isinstance(call, ast.Expr), "the file defines a DAG and never makes it"
    names: dict[str, Any] = {}
    exec(compile(file, "README.md", "exec"), names)
    dag = eval(compile(ast.Expression(call.value), "README.md", "eval"), names)
    assert {task: sorted(dag.get_task(task).downstream_task_ids) for task in dag.task_ids} == {
        "summary": ["start"],
        "start": ["done"],
        "done": ["letter"],
        "letter": [],
    }
