"""``@task.sim_workflow`` is SimExecuteWorkflowOperator with an input that a function returns."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import DAG, MappedOperator, TaskDeferred, task

from airflow_provider_sim.decorators.sim import sim_workflow_task
from airflow_provider_sim.exceptions import SimInputError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture
def calls():
    """The arguments of the function's calls."""
    return []


@pytest.fixture
def greet(calls):
    """Make the task that greets."""

    def make(*args, **options):
        @sim_workflow_task(**{"workflow_id": "no_input_format", "poll_interval": 0.02, **options})
        def greet(name, ti=None, punctuation="!"):
            calls.append((name, ti))
            return {"greeting": f"Hello {name}{punctuation}"}

        with DAG("a_dag", schedule=None):
            return greet(*args).operator

    return make


@pytest.mark.parametrize(
    "options", [{}, {"async_execution": True}, {"deferrable": True}], ids=["held open", "asynchronous", "deferrable"]
)
def test_function_result_is_sent_as_the_input(greet, run_task, emulator, options):
    output = run_task(greet("Ada", **options))
    assert output == {"result": {"input": {"greeting": "Hello Ada!"}}, "stdout": ""}
    assert [run.input for run in emulator.runs] == [{"greeting": "Hello Ada!"}]


def test_function_receives_the_context_variables_it_names(greet, run_task, context, calls):
    run_task(greet("Ada"))
    assert calls == [("Ada", context["ti"])]


def test_function_is_called_once_if_the_task_defers(greet, run_task, calls):
    run_task(greet("Ada", deferrable=True))
    assert len(calls) == 1


def test_template_syntax_in_the_input_is_not_rendered(greet, run_task, emulator):
    run_task(greet("{{ ds }}"))
    assert emulator.runs[0].input == {"greeting": "Hello {{ ds }}!"}


def test_retry_reattaches_to_the_run(greet, run_task, context, emulator):
    with pytest.raises(TaskDeferred):
        greet("Ada", workflow_id="slow", deferrable=True).execute(context)
    context["ti"].try_number = 2
    with pytest.raises(TaskDeferred) as deferral:
        greet("Ada", workflow_id="slow", deferrable=True).execute(context)
    assert deferral.value.trigger.run_id == emulator.runs[0].run_id
    assert len(emulator.runs) == 1


def test_input_that_is_not_json_is_rejected(run_task, emulator):
    @sim_workflow_task(workflow_id="echo")
    def odd():
        return {"message": object()}

    with DAG("a_dag", schedule=None):
        node = odd()
    with pytest.raises(SimInputError, match="can't be written as JSON"):
        run_task(node.operator)
    assert not emulator.runs


def test_decorator_creates_an_execute_workflow_operator(greet):
    node = greet("Ada", durable=False, on_paused="fail")
    assert isinstance(node, SimExecuteWorkflowOperator)
    assert (node.durable, node.on_paused) == (False, "fail")
    assert {"op_args", "op_kwargs", *SimExecuteWorkflowOperator.template_fields} == set(node.template_fields)
    assert node.task_type == "_SimWorkflowDecoratedOperator"
    assert node.operator_name == "@task.sim_workflow"


def test_decorator_is_registered_as_task_sim_workflow():
    @task.sim_workflow(workflow_id="echo")
    def ask():
        return {}

    with DAG("a_dag", schedule=None):
        assert ask().operator.workflow_id == "echo"


def test_return_annotation_does_not_describe_the_output(run_task, emulator):
    @sim_workflow_task(workflow_id="echo")
    def ask() -> dict:
        return {}

    @sim_workflow_task(workflow_id="echo", multiple_outputs=True)
    def ask_for_many():
        return {}

    with DAG("a_dag", schedule=None):
        assert ask().operator.multiple_outputs is False
        assert ask_for_many().operator.multiple_outputs is True


def test_decorated_task_can_be_mapped(run_task, emulator):
    @sim_workflow_task(workflow_id="no_input_format")
    def greet(name, punctuation):
        return {"text": f"Hello {name}{punctuation}"}

    with DAG("a_dag", schedule=None):
        mapped = greet.partial(punctuation="?").expand(name=["Ada", "Grace"]).operator
    assert isinstance(mapped, MappedOperator)
    one = mapped.unmap({"op_kwargs": {"name": "Grace", "punctuation": "?"}})
    run_task(one)
    assert emulator.runs[0].input == {"text": "Hello Grace?"}


def test_input_argument_of_the_decorator_is_rejected():
    @sim_workflow_task(workflow_id="echo", input={})
    def ask():
        return {}

    with DAG("a_dag", schedule=None), pytest.raises(TypeError, match="input"):
        ask()
