"""A workflow as a tool of an agent of Airflow's common-ai provider, with a model that needs no key and no network."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from airflow_provider_sim.hooks.sim import SimHook

pytestmark = pytest.mark.skipif(not find_spec("pydantic_ai"), reason="needs apache-airflow-providers-common-ai")
EXAMPLE = Path(__file__).parent.parent / "example_dags" / "example_sim_agent.py"
METHODS = {
    "execute_workflow": {"workflow_id": "echo_plain", "input_data": {"message": "hi"}},
    "execute_with_retry": {"workflow_id": "echo_plain", "input_data": {"message": "hi"}},
    "get_workflow_run": {"workflow_id": "echo_plain", "run_id": "RUN"},
    "get_workflow_status": {"workflow_id": "echo_plain"},
    "get_workflow": {"workflow_id": "echo_plain"},
    "get_usage_limits": {},
    "list_workflows": {},
    "validate_workflow": {"workflow_id": "echo_plain"},
}


@pytest.fixture(autouse=True)
def _connections(emulator, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", emulator.connection())
    monkeypatch.setenv("AIRFLOW_CONN_PYDANTICAI_DEFAULT", '{"conn_type": "pydanticai", "extra": {"model": "test"}}')


@pytest.fixture(autouse=True)
def _closed_event_loop():
    """Close the event loop that pydantic-ai uses for synchronous calls, which it leaves open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def use_tool():
    """Return a model that calls a tool once and answers with its result, and the tools that it was offered."""
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import FunctionModel

    offered: list[Any] = []

    def model(tool: str, **arguments: Any) -> tuple[FunctionModel, list[Any]]:
        def respond(messages, info):
            offered[:] = info.function_tools
            returned = [part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
            return ModelResponse(parts=[TextPart(returned[0]) if returned else ToolCallPart(tool, arguments)])

        return FunctionModel(respond), offered

    return model


def test_agent_of_the_example_runs_the_workflow_with_the_input_it_chose(use_tool, emulator, monkeypatch):
    from airflow.providers.common.ai.hooks.pydantic_ai import PydanticAIHook

    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task = module.example_sim_agent().get_task("answer")
    model, offered = use_tool("review_execute_with_retry", input_data={"message": "It arrives tomorrow."})
    monkeypatch.setattr(PydanticAIHook, "get_conn", lambda hook: model)
    ti = MagicMock(try_number=1)
    result = json.loads(task.execute({"ti": ti, "task_instance": ti}))
    assert (result["status"], result["output"]["result"]["message"]) == ("completed", "It arrives tomorrow.")
    [run] = emulator.runs
    assert (run.run_id, run.workflow_id) == (result["run_id"], "echo_plain")
    [tool] = offered
    [(name, schema)] = tool.parameters_json_schema["properties"].items()
    assert name == "input_data"
    assert "Start block" in schema["description"]


@pytest.mark.parametrize(("method", "arguments"), METHODS.items(), ids=METHODS)
def test_method_of_the_hook_is_a_documented_tool_that_returns_json(use_tool, method, arguments):
    from airflow.providers.common.ai.toolsets.hook import HookToolset
    from pydantic_ai import Agent

    with SimHook() as hook:
        run_id = hook.get_conn().execute_workflow("echo_plain", {"message": "hi"}).run_id
        toolset = HookToolset(hook, allowed_methods=[method])
        model, offered = use_tool(method, **{k: run_id if v == "RUN" else v for k, v in arguments.items()})
        result = Agent(model, toolsets=[toolset]).run_sync("Do it.").output
    assert type(json.loads(result)) in (dict, list, bool)
    [tool] = offered
    assert tool.description.endswith(".")
    properties = tool.parameters_json_schema["properties"]
    assert set(properties) == set(inspect.signature(getattr(hook, method)).parameters)
    assert all(schema["description"] for schema in properties.values())
    untyped = [name for name, schema in properties.items() if len(schema) == 1 and name != "input_data"]
    assert not untyped, "each annotation can be resolved and has a JSON type"
