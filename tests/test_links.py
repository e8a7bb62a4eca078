"""The links on a task's page open Sim's pages."""

from __future__ import annotations

import re

import pytest
import requests

from airflow_provider_sim.client.settings import approval_url, run_url, workflow_url
from airflow_provider_sim.links import sim as links


@pytest.mark.parametrize(
    ("link", "key"),
    [
        (links.SimRunLink(), "run_url"),
        (links.SimWorkflowLink(), "workflow_url"),
        (links.SimApprovalLink(), "approval_url"),
    ],
)
@pytest.mark.parametrize(("stored", "shown"), [("https://sim.example.com/x", "https://sim.example.com/x"), (None, "")])
def test_link_returns_the_pushed_xcom(monkeypatch, link, key, stored, shown):
    asked = []

    def get_value(**named: object) -> object:
        asked.append(named)
        return stored

    monkeypatch.setattr(links.XCom, "get_value", get_value)
    assert link.get_link(object(), ti_key="the key") == shown
    assert asked == [{"key": key, "ti_key": "the key"}]


def test_urls_work_with_and_without_a_workspace():
    base = "https://www.sim.ai"
    assert run_url(base, "w", "r 1", "space").startswith("https://www.sim.ai/")
    for page in (run_url(base, "w", "r", "space"), workflow_url(base, "w", "space")):
        assert "/workspace/space/" in page
    assert approval_url(base, "w", "r/1") == "https://www.sim.ai/resume/w/r%2F1"
    for page in (run_url(base, "w", "r", None), workflow_url(base, "w", None)):
        assert page.startswith("https://www.sim.ai/")
        assert "None" not in page


def test_ids_in_urls_are_quoted():
    base = "https://sim.example.com"
    assert run_url(base, "w/1", "r&1", "s/1") == f"{base}/workspace/s%2F1/logs?executionId=r%261"
    assert run_url(base, "w&1", "r", None) == workflow_url(base, "w&1", None)
    assert workflow_url(base, "w/1", "s/1") == f"{base}/workspace/s%2F1/w/w%2F1"
    assert workflow_url(base, "w&1", None) == f"{base}/workspace?redirect_workflow=w%261"
    assert approval_url(base, "w/1", "r/1") == f"{base}/resume/w%2F1/r%2F1"


@pytest.mark.parametrize("known", [True, False], ids=["workspace known", "workspace unknown"])
def test_links_open_pages_of_the_emulator(emulator, known):
    headers, body = {"X-API-Key": emulator.api_key}, {"input": {"message": "x"}}
    run_id = requests.post(
        f"{emulator.url}/api/v2/workflows/paused/execute", json=body, headers=headers, timeout=10
    ).json()["data"]["runId"]
    workspace_id = emulator.workspace_id if known else None

    def urls_of(*ids: str) -> dict[str, str]:
        return {
            "run_url": run_url(emulator.url, *ids, workspace_id),
            "approval_url": approval_url(emulator.url, *ids),
        }

    urls = urls_of("paused", run_id)
    titles = {key: re.search("<h1>(.*)</h1>", requests.get(url, timeout=10).text)[1] for key, url in urls.items()}

    assert titles == {
        "run_url": f"Run {run_id}" if known else "Workflow paused",
        "approval_url": f"Approval of run {run_id}",
    }
    assert {requests.get(url, timeout=10).status_code for url in urls_of("w", "r").values()} == {404}
