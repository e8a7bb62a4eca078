"""``docs/errors.md`` lists every error class, and every bad input with what it is really told."""

from __future__ import annotations

import inspect
import re

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_sim import exceptions
from scripts import bad_input
from scripts.bad_input import Told
from tests.versions import AIRFLOW, needs_airflow

CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(kind, exceptions.SimError) and name not in ("SimError", "SimPermanentError")
}
STARTED_BEFORE = (
    "409: run id used before",
    "409: pause answered before",
    "a pause that somebody else has answered",
)
"""Refusals of a second request, whose first one started a run."""


@pytest.fixture(scope="module")
def page() -> str:
    return bad_input.DOCS.read_text()


@pytest.fixture(scope="module")
def groups() -> list[tuple[str, list[Told]]]:
    """All cases, run; on Airflow 2, which has no watchers, without theirs."""
    with pytest.MonkeyPatch.context() as patch:
        if AIRFLOW.major < 3:
            for cases in bad_input.GROUPS.values():
                patch.delitem(cases, "a watcher for a status that is no end", raising=False)
        return list(bad_input.run_cases())


@pytest.fixture(scope="module")
def told(groups) -> list[Told]:
    return [told for _, of_group in groups for told in of_group]


def rows(page: str) -> dict[str, list[str]]:
    """The table of classes, by class."""
    table = page.partition("## The classes")[2].partition("\n## ")[0]
    cells = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): [cell.strip() for cell in rest] for name, *rest in cells}


def test_every_class_is_listed_with_what_airflow_makes_of_it(page):
    listed = {name: retried.startswith("yes") for name, (_, _, retried) in rows(page).items()}
    assert listed == {name: not issubclass(kind, AirflowFailException) for name, kind in CLASSES.items()}
    assert all(issubclass(kind, AirflowException) for kind in CLASSES.values())


@needs_airflow("3.0", "the asset watchers that the page has a row for")
def test_the_page_is_what_the_command_prints(page, groups):
    printed = page.partition(bad_input.BEGIN)[2].partition(bad_input.END)[0]
    assert printed.strip() == bad_input.markdown(groups)


def test_every_class_is_told_by_some_bad_input(told):
    from_triggers_alone = {"SimRunError"}
    assert {case.error for case in told} - {None} == set(CLASSES) - from_triggers_alone


def test_what_an_error_says_of_the_server_is_what_the_server_has_done(told):
    for case in told:
        if case.outcome == "never sent":
            assert (case.starts, case.runs or 0) == (0, 0), case
        if case.outcome == "refused" and case.what not in STARTED_BEFORE:
            assert not case.runs, case
        if case.outcome == "ran":
            assert case.starts == 1, case
            assert case.runs in (1, None), case


def test_no_retry_is_promised_where_none_can_mend_it(told):
    for case in told:
        permanent = case.error is not None and issubclass(CLASSES[case.error], AirflowFailException)
        assert ("Airflow" in case.retried) is not (permanent or case.error is None), case


def test_nothing_is_started_twice_but_where_surely_nothing_was(told):
    for case in told:
        if case.outcome in ("unknown", "ran"):
            assert case.starts <= 1, case


def test_messages_name_the_workflow_and_the_run_that_there_may_be(told):
    for case in told:
        if case.starts and case.error:
            assert re.search(r"workflow '[\w-]+'", case.message), case
        if case.outcome == "unknown" and case.starts:
            assert "Whether run 'airflow-0123' was started isn't known" in case.message, case


def test_messages_are_sentences_without_the_key(told):
    bracket = r"\[(HTTP \d{3}(, request 89ab)?)?(, )?(connection 'sim_default')?\]"
    link = r"http://127.0.0.1:3000/workspace/w/logs\?executionId=airflow-0123"
    for case in told:
        assert bad_input.KEY not in case.message, case
        assert re.search(rf"(\.|\. {bracket}|\. {link}|<API key>)$", case.message), case
