"""The client's face: what the rest of the package imports of it."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import airflow_provider_sim
from airflow_provider_sim import client
from airflow_provider_sim.client.methods import SyncMethods
from airflow_provider_sim.client.start import StartFlows
from airflow_provider_sim.hooks.sim import SimHook

PACKAGE = Path(airflow_provider_sim.__file__).parent


def test_typed_and_lazy_imports_use_the_same_modules():
    typed = {
        node.module.removeprefix("airflow_provider_sim.client.")
        for node in ast.walk(ast.parse(inspect.getsource(client)))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("airflow_provider_sim.client.")
    }
    assert typed == set(client._MODULE_OF.values())
    assert all(hasattr(client, name) for name in client._MODULE_OF)


def test_run_is_started_and_polled_without_the_other_models(emulator):
    program = f"""if True:
        import sys
        from airflow_provider_sim.client import SimClient, WorkflowRun
        client = SimClient({emulator.api_key!r}, {emulator.url!r})
        receipt = client.execute_with_retry("echo_plain", {{}}, async_execution=True)
        assert isinstance(client.get_workflow_run("echo_plain", receipt.run_id), WorkflowRun)
        assert "airflow_provider_sim.client.workspace_models" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_other_packages_import_only_the_client_package():
    below = [
        (path.relative_to(PACKAGE).as_posix(), node.module)
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "client"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_provider_sim.client.")
    ]
    assert below == []


@pytest.mark.parametrize("cls", [client.SimClient, client.AsyncSimClient, SimHook])
def test_methods_have_signature_types_and_docstring_of_their_flows(cls):
    flows = {
        name: flow
        for name, flow in inspect.getmembers(StartFlows, inspect.iscoroutinefunction)
        if hasattr(SyncMethods, name)
    }
    methods = {name: getattr(cls, name) for name in flows}
    assert methods.keys() >= {"execute_workflow", "execute_with_retry", "get_workflow_run", "get_output"}
    for name, method in methods.items():
        assert method.__doc__ == flows[name].__doc__
        assert inspect.signature(method) == inspect.signature(flows[name])
        assert get_type_hints(method) == get_type_hints(flows[name])
        assert inspect.iscoroutinefunction(method) is (cls is client.AsyncSimClient)


def test_hook_has_every_method_of_the_client():
    names = vars(client.SimClient).keys() | vars(SyncMethods).keys()
    assert {name for name in names if not name.startswith("_") and not hasattr(SimHook, name)} == {
        "download_file",
        "in_thread",
        "open_stream",
    }


def test_types_of_the_hook_s_own_methods_resolve_at_runtime():
    """Agents' toolsets make JSON schemas of them."""
    methods = [method for name, method in vars(SimHook).items() if inspect.isfunction(method) and name[0] != "_"]
    assert SimHook.get_rate_limit_info in methods
    for method in methods:
        assert get_type_hints(method), method.__name__


def test_docstrings_describe_every_parameter():
    """Agents choose arguments by them."""
    for name, flow in inspect.getmembers(StartFlows, inspect.iscoroutinefunction):
        if hasattr(SimHook, name) and not name.startswith("_") and name != "start_workflow_run":
            described = re.findall(r":param (\w+):", flow.__doc__)
            assert described == list(inspect.signature(flow).parameters)[1:], name
