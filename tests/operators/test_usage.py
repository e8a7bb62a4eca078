"""Usage: the operator, the sensor, and the execute operator's look before it sends; against the emulator."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_sim.exceptions import SimUsageLimitError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator
from airflow_provider_sim.sensors.usage import SimUsageSensor

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.sim_emulator(plan="free")]


@pytest.fixture
def used(emulator):
    """Use so many percent of the limit, which is one dollar."""

    def use(percent):
        emulator.state.limits.usage = percent / 100

    return use


@pytest.fixture
def judge(run_task):
    def run(**arguments):
        return run_task(SimUsageLimitsOperator(task_id="u", **arguments))

    return run


def test_dollars_and_credits_are_told_apart(judge, used):
    used(25)
    usage = judge()
    assert usage["percent_used"] == 25
    assert usage["usd"] == {"used": 0.25, "limit": 1.0}
    assert usage["credits"] == {"used": 50, "limit": 200, "remaining": 150}
    assert usage["account_status"] == "active"
    assert usage["rate_limits"]["sync"]["remaining"] == 100
    assert usage["period"]["end"].endswith("Z")


def test_a_workspace_key_isn_t_told_credits(judge, used, connection, emulator):
    used(25)
    connection(password=emulator.workspace_key)
    usage = judge()
    assert (usage["usd"]["used"], usage["credits"]) == (0.25, None)


def test_a_server_without_v2_tells_dollars_alone(judge, used, connection):
    used(25)
    connection(extra={"api_version": "legacy"})
    usage = judge()
    assert (usage["percent_used"], usage["credits"], usage["period"]) == (25, None, None)


@pytest.mark.parametrize(("warn_at", "level"), [(25, "warning"), (26, "info")])
def test_it_warns(judge, used, capfd, warn_at, level):
    used(25)
    judge(warn_at=warn_at)
    [said] = [line for line in "".join(capfd.readouterr()).splitlines() if "usage limit is used" in line]
    assert level in said
    assert "$0.25 of $1.00, 50 of 200 credits" in said


def test_it_skips(judge, used, context):
    used(80)
    judge(skip_at=81)
    with pytest.raises(AirflowSkipException, match=r"80\.0 %.*skipped from 80 %"):
        judge(skip_at=80)
    assert context["ti"].xcoms["usage"]["percent_used"] == 80


def test_it_fails_before_it_skips(judge, used):
    used(95)
    with pytest.raises(SimUsageLimitError, match=r"95\.0 %.*below 90 %"):
        judge(fail_at=90, skip_at=80)


def test_an_account_over_its_limit_has_no_room(judge, used):
    used(120)
    with pytest.raises(SimUsageLimitError, match="Sim says 'limit_exceeded'"):
        judge(fail_at=100)


def test_the_sensor_waits_for_room(context, used):
    sensor = SimUsageSensor(task_id="s", below=90, mode="reschedule")
    used(90)
    assert not sensor.poke(context)
    used(0)  # the next period
    seen = sensor.poke(context)
    assert seen
    assert seen.xcom_value["percent_used"] == 0


def test_the_execute_operator_looks_before_it_sends(run_task, used, emulator):
    used(90)
    task = {"task_id": "t", "workflow_id": "echo_plain"}
    run_task(SimExecuteWorkflowOperator(check_usage_before=91, **task))
    with pytest.raises(SimUsageLimitError, match="below 90 %") as caught:
        run_task(SimExecuteWorkflowOperator(check_usage_before=90, **task))
    assert caught.value.workflow_id == "echo_plain"
    assert len(emulator.runs) == 1
