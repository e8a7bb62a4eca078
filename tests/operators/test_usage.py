"""Usage operator, against the emulator."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_sim.exceptions import SimError, SimInputError
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator

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


def test_usage_contains_dollars_and_credits(judge, used):
    used(25)
    usage = judge()
    assert usage["percent_used"] == 25
    assert usage["usd"] == {"used": 0.25, "limit": 1.0}
    assert usage["credits"] == {"used": 50, "limit": 200, "remaining": 150}
    assert usage["account_status"] == "active"
    assert usage["rate_limits"]["sync"]["remaining"] == 100
    assert usage["period"]["end"].endswith("Z")


def test_workspace_key_gets_no_credits(judge, used, connection, emulator):
    used(25)
    connection(password=emulator.workspace_key)
    usage = judge()
    assert (usage["usd"]["used"], usage["credits"]) == (0.25, None)


def test_server_without_v2_reports_dollars_only(judge, used, connection):
    used(25)
    connection(extra={"api_version": "legacy"})
    usage = judge()
    assert (usage["percent_used"], usage["credits"], usage["period"]) == (25, None, None)


@pytest.mark.parametrize(("warn_at", "level"), [(25, "warning"), (26, "info")])
def test_warn_at_logs_a_warning(judge, used, capfd, warn_at, level):
    used(25)
    judge(warn_at=warn_at)
    [said] = [line for line in "".join(capfd.readouterr()).splitlines() if "usage limit is used" in line]
    assert level in said.lower()
    assert "$0.25 of $1.00, 50 of 200 credits" in said


def test_skip_at_skips_the_task(judge, used, context):
    used(80)
    judge(skip_at=81)
    with pytest.raises(AirflowSkipException, match=r"80\.0 %.*skipped from 80 %"):
        judge(skip_at=80)
    assert context["ti"].xcoms["usage"]["percent_used"] == 80


def test_fail_at_is_retryable_and_checked_before_skip_at(judge, used):
    used(95)
    with pytest.raises(SimError, match=r"95\.0 %.*fails from 90 %") as caught:
        judge(fail_at=90, skip_at=80)
    assert not isinstance(caught.value, AirflowFailException)
    assert caught.value.code == "USAGE_LIMIT_EXCEEDED"


def test_account_over_its_limit_fails_at_100_percent(judge, used):
    used(120)
    with pytest.raises(SimError, match="account status 'limit_exceeded'"):
        judge(fail_at=100)


@pytest.mark.parametrize("name", ["warn_at", "skip_at", "fail_at"])
@pytest.mark.parametrize("value", ["lots", "0", -5, True, "nan"])
def test_invalid_percentage_is_rejected_before_any_request(judge, emulator, name, value):
    with pytest.raises(SimInputError, match=f"{name} is .*percent of the usage limit"):
        judge(**{name: value})
    assert not emulator.requests


def test_percentages_accept_rendered_strings(judge, used):
    used(80)
    with pytest.raises(AirflowSkipException):
        judge(skip_at="80")
