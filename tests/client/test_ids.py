"""IDs are checked before a request is sent."""

from __future__ import annotations

import pytest

from airflow_provider_sim.client.checks import check_block_ids, check_run_id, check_workflow_id
from airflow_provider_sim.exceptions import Outcome, SimInputError

BLOCK = "0f6a2b1c-1111-4222-8333-444455556666"


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (check_workflow_id, "0f6a2b1c-1111-4222-8333-444455556666"),
        (check_workflow_id, "wörk_flow-1:2"),
        (check_run_id, "airflow-1.2:3_4"),
    ],
)
def test_valid_ids_are_returned(check, value):
    assert check(value) == value
    check_block_ids([BLOCK, f"{BLOCK}.content"])


@pytest.mark.parametrize(
    ("check", "value", "key_phrase"),
    [
        *((check_workflow_id, value, "must be the ID") for value in ("", "  ", None, 7, ["w"])),
        *((check_workflow_id, value, "contains spaces") for value in (" w", "w\n", "a w", "w\x00", "..", "w?", "/")),
        (check_run_id, "a b", "run_id"),
        (check_run_id, "..", "run_id"),
        (check_block_ids, ["Agent.content"], "'Agent.content'"),
        (check_block_ids, "Agent.content", "'Agent.content'"),
    ],
)
def test_invalid_ids_are_rejected(check, value, key_phrase):
    with pytest.raises(SimInputError, match=key_phrase) as caught:
        check(value)
    assert caught.value.outcome is Outcome.NEVER_SENT


@pytest.mark.parametrize(
    "address",
    [
        "https://www.sim.ai/workspace/1/w/wf-9",
        "http://localhost:3000/workspace/1/w/wf-9/?run=2#top",
        " www.sim.ai/workspace/1/w/wf-9\n",
        "/w/wf-9",
    ],
)
def test_pasted_workflow_url_error_suggests_the_id(address):
    with pytest.raises(SimInputError, match=r"only the last part of the address: 'wf-9'"):
        check_workflow_id(address)
