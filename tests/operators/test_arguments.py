"""Argument checks: constants in ``__init__`` and ``partial``, templated fields after rendering."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_sim.arguments import is_template
from airflow_provider_sim.decorators.sim import sim_workflow_task
from airflow_provider_sim.exceptions import Outcome, SimInputError
from airflow_provider_sim.notifications.sim import SimNotifier
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator
from airflow_provider_sim.operators.runs import SimCancelRunOperator, SimResumeRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

pytestmark = pytest.mark.usefixtures("connection")

REQUIRED = {
    SimExecuteWorkflowOperator: {"workflow_id": "echo_plain"},
    SimExecuteWorkflowBatchOperator: {"workflow_id": "echo_plain", "inputs": [{"message": "x"}]},
    SimCancelRunOperator: {"workflow_id": "echo_plain", "run_id": "r-1"},
    SimResumeRunOperator: {"workflow_id": "echo_plain", "run_id": "r-1"},
    SimDeployWorkflowOperator: {"workflow_id": "echo_plain"},
    SimUsageLimitsOperator: {},
    SimJobSensor: {"workflow_id": "echo_plain", "run_id": "r-1"},
}
RUN, BATCH, CANCEL, RESUME, DEPLOY, USAGE, SENSOR = REQUIRED
WAIT, OUTPUTS = (RUN, BATCH, CANCEL, RESUME, DEPLOY), (RUN, BATCH, SENSOR)
NO_DURATION = [0, -1, float("inf"), float("nan"), True, "10", "1h", 1e12, timedelta(0), timedelta.max]

WRONG = [
    *((of, {"workflow_id": value}) for of in REQUIRED if of is not USAGE for value in ("", "a b", "https://s/w/x", 7)),
    *((of, {"workflow_id": None}) for of in REQUIRED if of not in (BATCH, USAGE)),
    *((of, {"run_id": value}) for of in (CANCEL, RESUME, SENSOR) for value in (None, "", "a b", "x" * 129, "../jobs")),
    *((of, {name: value}) for of in WAIT for name in ("poll_interval", "timeout") for value in NO_DURATION),
    *((of, {"timeout": None}) for of in (CANCEL, RESUME, DEPLOY)),
    (SENSOR, {"poke_interval": 0}),
    *((of, {"run_timeout": v, "deferrable": True}) for of in (RUN, BATCH) for v in ("1h", 0, 0.5, 10**6, True)),
    *((of, {"on_paused": value}) for of in OUTPUTS for value in ("hope", None, "Wait", ["wait"])),
    *((of, {"large_outputs": value}) for of in OUTPUTS for value in ("hide", True)),
    *((of, {"max_output_bytes": value}) for of in OUTPUTS for value in (0, 1.5, True, "1k")),
    *((of, {"check_input": "sent"}) for of in (RUN, BATCH)),
    *((of, {"selected_outputs": value}) for of in (RUN, SENSOR) for value in ("", "['A.b']", [""], [7])),
    (SENSOR, {"selected_outputs": ["Agent 1.content"]}),
    (SENSOR, {"selected_outputs": "Agent 1.content"}),
    *(
        (of, {"retry_args": value})
        for of in REQUIRED
        for value in ({"retries": 3}, {"max_retries": "3"}, {"max_delay": -1}, {"max_delay": float("nan")}, 3)
    ),
    *((USAGE, {name: value}) for name in ("warn_at", "skip_at", "fail_at") for value in (0, "much", True)),
    (RUN, {"stream": True, "wait_for_completion": False}),
    (RUN, {"async_execution": False, "wait_for_completion": False}),
    (RUN, {"async_execution": False, "deferrable": True}),
    (RUN, {"stream": True, "async_execution": True}),
    (RUN, {"stream": True, "deferrable": True}),
    (RUN, {"multiple_outputs": True, "wait_for_completion": False}),
    (BATCH, {"multiple_outputs": True}),
    (BATCH, {"inputs": [{"papers": [b"x"]}]}),
    (BATCH, {"on_error": "hope"}),
    *((BATCH, {"max_active_runs": value}) for value in (0, True, "5", 1.5)),
    (DEPLOY, {"action": "deplyo"}),
    (DEPLOY, {"version": 3, "action": "deploy"}),
    (DEPLOY, {"version": "new", "action": "rollback"}),
    (DEPLOY, {"version_name": "x", "action": "undeploy"}),
]
WRONG_WITH_DEFAULTS = [
    (RUN, {"input": {"papers": [b"x"]}, "wait_for_completion": False}),
    *((of, {"large_outputs": "store"}) for of in OUTPUTS),
    (RUN, {"selected_outputs": ["Agent 1.content"]}),
    (RUN, {"selected_outputs": "Agent 1.content"}),
    (RUN, {"run_timeout": 60}),
    (DEPLOY, {"version": 3}),
]
"""Which ``partial`` can't know: another argument may be expanded."""


@pytest.mark.parametrize(
    ("operator", "wrong"),
    [pytest.param(*case, id=f"{case[0].__name__}, {case[1]!r}") for case in [*WRONG, *WRONG_WITH_DEFAULTS]],
)
def test_invalid_constants_fail_at_parse_time(operator, wrong):
    arguments = {"task_id": "t", **REQUIRED[operator], **wrong}
    with pytest.raises(SimInputError, match=next(iter(wrong))) as caught:
        operator(**arguments)
    assert isinstance(caught.value, AirflowFailException)
    assert caught.value.outcome is Outcome.NEVER_SENT
    if (operator, wrong) not in WRONG_WITH_DEFAULTS:
        with pytest.raises(SimInputError):
            operator.partial(**arguments)


@pytest.mark.parametrize(
    ("operator", "right"),
    [
        (RUN, {"workflow_id": "{{ params.id }}", "selected_outputs": "{{ params.outputs }}"}),
        (RUN, {"workflow_id": "{% if True %}a{% endif %}", "selected_outputs": ["{{ params.block }}.content"]}),
        (RUN, {"large_outputs": "store", "output_files_dir": "{{ params.folder }}"}),
        (RUN, {"large_outputs": "store", "output_files_dir": Path("out")}),
        (RUN, {"poll_interval": timedelta(minutes=2), "timeout": 0.5}),
        (RUN, {"run_timeout": timedelta(hours=1), "async_execution": True, "retry_args": {"max_retries": 0}}),
        (RUN, {"run_timeout": 60, "wait_for_completion": False}),
        (RUN, {"selected_outputs": ["Agent 1.content"], "stream": True}),
        (RUN, {"selected_outputs": "Agent 1.content", "stream": True, "check_input": "off"}),
        (BATCH, {"workflow_id": None, "max_active_runs": 1, "on_error": "collect", "run_timeout": 60}),
        (SENSOR, {"run_id": "{{ ti.xcom_pull('t') }}", "poke_interval": timedelta(seconds=1)}),
        (DEPLOY, {"action": "{{ params.action }}", "version": "{{ params.version }}"}),
        (DEPLOY, {"action": "rollback", "version": "3"}),
        (USAGE, {"warn_at": "90", "skip_at": "{{ params.limit }}"}),
    ],
    ids=str,
)
def test_valid_constants_and_templates_are_accepted(operator, right):
    operator(task_id="t", **{**REQUIRED[operator], **right})
    operator.partial(task_id="t", **{**REQUIRED[operator], **right}).expand_kwargs([{}])


@pytest.mark.parametrize(
    ("operator", "field", "value"),
    [
        (RUN, "workflow_id", "https://www.sim.ai/workspace/1/w/x"),
        (RUN, "selected_outputs", "['a.b']"),
        (BATCH, "workflow_id", ""),
        (CANCEL, "run_id", "None"[:0]),
        (RESUME, "run_id", "a b"),
        (SENSOR, "run_id", None),
        (DEPLOY, "action", "deplyo"),
        (USAGE, "fail_at", "much"),
    ],
)
def test_invalid_rendered_values_fail_before_any_request(context, emulator, operator, field, value):
    task = operator(task_id="t", **{**REQUIRED[operator], field: "{{ params.value }}"})
    setattr(task, field, value)  # as Airflow does when it renders
    with pytest.raises(SimInputError, match=field):
        task.execute(context)
    assert emulator.requests == []


def test_partial_defers_checks_that_depend_on_expanded_arguments():
    RUN.partial(task_id="t", workflow_id="w", run_timeout=60).expand(async_execution=[True])
    RUN.partial(task_id="u", workflow_id="w", selected_outputs=["A.b"]).expand(stream=[True])
    RUN.partial(task_id="v", workflow_id="w", large_outputs="store").expand(output_files_dir=["a"])


@pytest.mark.parametrize(
    "wrong", [{"poll_interval": "10"}, {"multiple_outputs": True, "wait_for_completion": False}], ids=str
)
def test_decorator_checks_its_arguments_at_parse_time(wrong):
    with pytest.raises(SimInputError, match=next(iter(wrong))):
        sim_workflow_task(dict, workflow_id="w", **wrong)


@pytest.mark.parametrize("wrong", [{"workflow_id": ""}, {"timeout": 0}], ids=str)
def test_notifier_checks_its_arguments_in_init(wrong):
    with pytest.raises(SimInputError, match=next(iter(wrong))):
        SimNotifier(**{"workflow_id": "w", **wrong})
    SimNotifier(workflow_id="{{ params.id }}")


def test_is_template_finds_templates_in_nested_values_and_xcoms():
    xcom = SimUsageLimitsOperator(task_id="t").output
    assert all(map(is_template, ("{{ a }}", "{% b %}", ["x", "{{ a }}"], {"k": ("{{ a }}",)}, xcom, [xcom])))
    assert not any(map(is_template, ("w", "{w}", ["x"], {"k": "v"}, 7, None, Path("x"))))


@pytest.mark.parametrize("operator", WAIT, ids=lambda operator: operator.__name__)
def test_poll_interval_accepts_a_timedelta(operator):
    task = operator(task_id="t", **REQUIRED[operator], poll_interval=timedelta(minutes=2))
    assert task.poll_interval == 120.0


def test_run_completes_with_timedelta_interval_and_timeout(run_task, emulator):
    how = {"poll_interval": timedelta(milliseconds=20), "timeout": timedelta(minutes=1), "async_execution": True}
    run_task(SimExecuteWorkflowOperator(task_id="t", workflow_id="echo_plain", **how))
    assert [run.status for run in emulator.runs] == ["completed"]
