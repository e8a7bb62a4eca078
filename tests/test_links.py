"""The buttons on a task's page lead to Sim's own pages."""

from __future__ import annotations

import pytest

from airflow_provider_sim.client.pages import approval_page, run_page, workflow_page
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
def test_a_link_is_what_the_task_pushed(monkeypatch, link, key, stored, shown):
    asked = []

    def get_value(**named: object) -> object:
        asked.append(named)
        return stored

    monkeypatch.setattr(links.XCom, "get_value", get_value)
    assert link.get_link(object(), ti_key="the key") == shown
    assert asked == [{"key": key, "ti_key": "the key"}]


def test_pages_of_sim():
    base = "https://www.sim.ai"
    assert run_page(base, "w", "r 1", "space").startswith("https://www.sim.ai/")
    for page in (run_page(base, "w", "r", "space"), workflow_page(base, "w", "space")):
        assert "/workspace/space/" in page
    assert approval_page(base, "w", "r/1") == "https://www.sim.ai/resume/w/r%2F1"
    for page in (run_page(base, "w", "r", None), workflow_page(base, "w", None)):
        assert page.startswith("https://www.sim.ai/")
        assert "None" not in page
