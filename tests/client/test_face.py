"""The client's face: what the rest of the package imports of it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import airflow_provider_sim
from airflow_provider_sim import client
from airflow_provider_sim.client.flows import Flows

PACKAGE = Path(airflow_provider_sim.__file__).parent


def test_typed_and_lazy_imports_use_the_same_modules():
    typed = {
        node.module.removeprefix("airflow_provider_sim.client.")
        for node in ast.walk(ast.parse(inspect.getsource(client)))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("airflow_provider_sim.client.")
    }
    assert typed == set(client._MODULE_OF.values())
    assert all(hasattr(client, name) for name in dir(client))


def test_other_packages_import_only_the_client_package():
    below = [
        (path.relative_to(PACKAGE).as_posix(), node.module)
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "client"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_provider_sim.client.")
    ]
    assert below == []


@pytest.mark.parametrize("cls", [client.SimClient, client.AsyncSimClient])
def test_client_methods_copy_signature_and_docstring_from_flows(cls):
    method, flow = cls.get_workflow_run, Flows.get_workflow_run
    assert method.__doc__ == flow.__doc__
    assert inspect.signature(method).parameters == inspect.signature(flow).parameters
    assert inspect.signature(method).return_annotation == "models.WorkflowRun"
    assert inspect.iscoroutinefunction(method) is (cls is client.AsyncSimClient)
