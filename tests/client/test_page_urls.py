"""Addresses of Sim's pages."""

from __future__ import annotations

from airflow_provider_sim.client.settings import approval_url, run_url, workflow_url


def test_url_parts_are_quoted():
    assert run_url("http://sim", "w", "r/1&2", "s/1") == "http://sim/workspace/s%2F1/logs?executionId=r%2F1%262"
    assert workflow_url("http://sim", "w/1", "s/1") == "http://sim/workspace/s%2F1/w/w%2F1"
    assert approval_url("http://sim", "w/1", "r/1") == "http://sim/resume/w%2F1/r%2F1"


def test_urls_without_a_workspace_redirect_by_workflow():
    page = "http://sim/workspace?redirect_workflow=w%2F1"
    assert run_url("http://sim", "w/1", "r", None) == workflow_url("http://sim", "w/1", None) == page
