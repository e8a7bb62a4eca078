"""The parts of the package that Airflow loads at every start and every parsing of a DAG file."""

from __future__ import annotations

import importlib.metadata
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import jsonschema
import pytest

import airflow_provider_sim
from airflow_provider_sim import __version__
from airflow_provider_sim.get_provider_info import get_provider_info
from tests.versions import AIRFLOW, needs_airflow


def test_version_equals_the_distribution_version():
    assert importlib.metadata.version("airflow-provider-sim") == __version__


def test_provider_info_satisfies_airflow_s_own_schema():
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_entry_point_loads_with_other_imports_blocked():
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] != "airflow_provider_sim":
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
sys.path.insert(0, ROOT)
from airflow_provider_sim.get_provider_info import get_provider_info
assert get_provider_info()["package-name"] == "airflow-provider-sim"
"""
    root = str(files("airflow_provider_sim").joinpath(".."))
    subprocess.run([sys.executable, "-S", "-c", code.replace("ROOT", repr(root))], check=True)


def modules() -> Iterator[Any]:
    """Every module of the package, by name; those that not every environment can import say why."""
    for module in pkgutil.walk_packages(airflow_provider_sim.__path__, "airflow_provider_sim."):
        marks = {
            "airflow_provider_sim.triggers.events": needs_airflow("3.0", "asset watchers"),
            "airflow_provider_sim.task.lineage_facets": pytest.mark.skipif(
                not find_spec("openlineage"), reason="OpenLineage isn't installed"
            ),
        }
        yield pytest.param(module.name, marks=marks.get(module.name, ()))


@pytest.mark.parametrize("module", list(modules()))
def test_every_module_can_be_imported(module):
    importlib.import_module(module)


def test_modules_of_provider_info_exist():
    info = get_provider_info()
    for entry in [entry for key in ("hooks", "operators", "sensors", "triggers") for entry in info[key]]:
        for module in entry["python-modules"]:
            assert find_spec(module)


def test_classes_of_provider_info_exist():
    info = get_provider_info()
    decorators = [entry["class-name"] for entry in info["task-decorators"]]
    others = [*info["notifications"], *info["cli"], info["connection-types"][0]["hook-class-name"]]
    for path in [*info["extra-links"], *decorators, *others]:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["SimExecuteWorkflowOperator(input={})", "SimJobSensor(run_id='r')"])
def test_resuming_with_an_output_loads_neither_http_libraries_nor_the_client(task):
    code = """
import sys
from datetime import datetime, timezone
from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator, BaseHook, conf
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor
before = set(sys.modules)
class TaskInstance:
    start_date = datetime.now(tz=timezone.utc)
    def xcom_push(self, key, value):
        print(key, value)
ids = {"workflow_id": "w", "run_id": "r"}
event = {"status": "completed", **ids, "details": {"status": "completed"}, "output": "[1]"}
assert TASK.resume_execution("execute_complete", {"event": event}, {"ti": TaskInstance()}) == [1]
new = set(sys.modules) - before
print(sorted(new & {"requests", "tenacity", "urllib3", "airflow_provider_sim.client.api.http"}))
"""
    code = code.replace("TASK", task.replace("(", "(task_id='t', workflow_id='w', "))
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_dag_parsing_loads_neither_http_libraries_nor_the_client():
    code = """
import importlib, sys
from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator, BaseHook, conf, dag, task
before = set(sys.modules)
from airflow_provider_sim.get_provider_info import get_provider_info
info = get_provider_info()
for module in [name for kind in ("operators", "sensors") for name in info[kind][0]["python-modules"]]:
    importlib.import_module(module)
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.sensors.sim import SimJobSensor
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator
import airflow_provider_sim.decorators.sim
from airflow_provider_sim.notifications.sim import SimNotifier
SimNotifier(workflow_id="w")
SimExecuteWorkflowOperator(task_id="t", workflow_id="w"), SimExecuteWorkflowBatchOperator(task_id="b", inputs=[])
SimJobSensor(task_id="s", workflow_id="w", run_id="r")
SimUsageLimitsOperator(task_id="u")
if EVENTS:
    from airflow_provider_sim.triggers.events import SimRunEventTrigger
    SimRunEventTrigger(workflow_ids=["w"]).serialize()
new = set(sys.modules) - before
print(sorted(new & {"requests", "httpx", "tenacity", "urllib3", "aiohttp", "airflow_provider_sim.client.base"}))
"""
    code = code.replace("EVENTS", str(AIRFLOW.major > 2))
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip().splitlines()[-1] == "[]"
