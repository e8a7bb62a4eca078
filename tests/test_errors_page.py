"""``docs/reference/errors.md``: complete, and equal to the output of ``scripts.bad_input``."""

from __future__ import annotations

import inspect
import re

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_sim import exceptions
from scripts import bad_input
from scripts.bad_input import CaseResult
from tests.versions import AIRFLOW

CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(kind, exceptions.SimError) and name not in ("SimError", "SimPermanentError")
}
STARTED_BEFORE = (
    "409: duplicate run ID",
    "409: pause already answered",
    "pause answered by another user",
)
"""Cases that reject a second request after the first one started a run."""


@pytest.fixture(scope="module")
def page() -> str:
    return bad_input.DOCS.read_text()


def run_cases() -> list[tuple[str, list[CaseResult]]]:
    """Run all cases; on Airflow 2 without the event trigger's."""
    with pytest.MonkeyPatch.context() as patch:
        if AIRFLOW.major < 3:
            for cases in bad_input.GROUPS.values():
                patch.delitem(cases, "event trigger for a status that isn't terminal", raising=False)
        return list(bad_input.run_cases())


def rows(page: str) -> dict[str, list[str]]:
    """Return the rows of the table of classes by class."""
    table = page.partition("## Error classes")[2].partition("\n## ")[0]
    cells = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): [cell.strip() for cell in rest] for name, *rest in cells}


def test_table_lists_every_error_class_and_its_retries(page):
    listed = {name: retried.startswith("yes") for name, (_, _, retried) in rows(page).items()}
    assert listed == {name: not issubclass(kind, AirflowFailException) for name, kind in CLASSES.items()}
    assert all(issubclass(kind, AirflowException) for kind in CLASSES.values())


def test_cases_match_the_page_and_the_server(page):
    """One test, because running the cases takes seconds, and a worker of xdist would run them for each test."""
    groups = run_cases()
    if AIRFLOW.major >= 3:
        check_page_equals_the_output_of_the_script(page, groups)
    results = [result for _, group in groups for result in group]
    check_cases_cover_every_error_class(results)
    check_outcome_matches_requests_and_runs_of_the_server(results)
    check_permanent_errors_are_not_retried_by_airflow(results)
    check_uncertain_starts_are_not_repeated(results)
    check_messages_name_workflow_and_uncertain_run(results)
    check_messages_are_sentences_without_the_api_key(results)


def check_page_equals_the_output_of_the_script(page, groups):
    printed = page.partition(bad_input.BEGIN)[2].partition(bad_input.END)[0]
    assert printed.strip() == bad_input.markdown(groups)


def check_cases_cover_every_error_class(results):
    raised_by_triggers_only = {"SimRunError"}
    assert {case.error for case in results} - {None} == set(CLASSES) - raised_by_triggers_only


def check_outcome_matches_requests_and_runs_of_the_server(results):
    for case in results:
        if case.outcome == "never sent":
            assert (case.starts, case.runs or 0) == (0, 0), case
        if case.outcome == "refused" and case.case not in STARTED_BEFORE:
            assert not case.runs, case
        if case.outcome == "ran":
            assert case.starts == 1, case
            assert case.runs in (1, None), case


def check_permanent_errors_are_not_retried_by_airflow(results):
    for case in results:
        permanent = case.error is not None and issubclass(CLASSES[case.error], AirflowFailException)
        assert ("Airflow" in case.retried_by) is not (permanent or case.error is None), case


def check_uncertain_starts_are_not_repeated(results):
    for case in results:
        if case.outcome in ("unknown", "ran"):
            assert case.starts <= 1, case


def check_messages_name_workflow_and_uncertain_run(results):
    for case in results:
        if case.starts and case.error:
            assert re.search(r"workflow '[\w-]+'", case.message), case
        if case.outcome == "unknown" and case.starts:
            assert "unknown whether run 'airflow-0123' was started" in case.message, case


def check_messages_are_sentences_without_the_api_key(results):
    bracket = r"\[(HTTP \d{3}(, request 89ab)?)?(, )?(connection 'sim_default')?\]"
    link = r"http://127.0.0.1:3000/workspace/w/logs\?executionId=airflow-0123"
    for case in results:
        assert bad_input.KEY not in case.message, case
        assert re.search(rf"(\.|\. {bracket}|\. {link}|<API key>)$", case.message), case
