"""Through Airflow's pages with a browser; what stands on stdin says where they are. Run by :mod:`scripts.browser`."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect, sync_playwright

PATIENCE = 90.0
"""Seconds for a task to get where it should be."""

told = json.load(sys.stdin)
AIRFLOW, SIM = told["airflow"], told["sim"]


def main() -> None:
    """Go from page to page; the first that isn't as it should be ends it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=told["chromium"], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        for look in (connection_form, connection_test, approval):
            try:
                look(page)
            except Exception:
                picture(page, "where-it-ended")
                raise
            print(f"{look.__name__.replace('_', ' ')}: as it should be", flush=True)
        browser.close()


def connection_form(page: Page) -> None:
    """The fields have Sim's names, the key is masked, and the extra fields explain themselves."""
    open_page(page, "/connections")
    form = fill_connection(page, "sim_other_key", "sk-sim-this-is-another-key")
    expect(form.get_by_text("Base URL")).to_be_visible()
    expect(form.get_by_text("API key", exact=True)).to_be_visible()
    for hidden in ("Login", "Port", "Schema"):
        expect(form.get_by_text(hidden, exact=True)).to_have_count(0)
    picture(page, "connection-form")
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    expect(form.get_by_text("auto finds out whether the server has /api/v2 switched on.")).to_be_visible()
    form.get_by_role("button", name="Save").click()
    expect(form).to_have_count(0)


def fill_connection(page: Page, name: str, key: str) -> Locator:
    """Open the form of a new connection and fill it in."""
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.get_by_role("textbox").first.fill(name)
    form.get_by_role("combobox").click()
    page.keyboard.type("Sim")
    page.get_by_role("option", name="Sim", exact=True).click()
    form.locator("input[name=host]").fill(SIM)
    masked = form.locator("input[type=password]")
    expect(masked).to_have_count(1)
    masked.fill(key)
    return form


def connection_test(page: Page) -> None:
    """The test says as whom one is connected, or what is wrong.

    By the REST API: the button of Airflow 3.3.2 sends port 0 for connections without one, and is then told that this
    isn't the port that is stored.
    """
    for key, words in {told["key"]: "Connected to", "sk-sim-this-is-another-key": "the API key is wrong"}.items():
        connection = {"connection_id": "sim_other_key", "conn_type": "sim", "host": SIM, "password": key}
        message = call("POST", "/connections/test", connection)["message"]
        assert words in message, message


def approval(page: Page) -> None:
    """A person sees Sim's question and answers it; the links of the task lead into Sim."""
    dag, run = "example_sim_approval", f"tour-{int(time.time())}"
    call("POST", f"/dags/{dag}/dagRuns", {"dag_run_id": run, "logical_date": None})
    tasks = f"/dags/{dag}/dagRuns/{run}/taskInstances"
    until(lambda: call("GET", f"{tasks}/decide")["state"] in ("awaiting_input", "deferred"), "the question to be asked")
    sim_run = call("GET", f"{tasks}/ask/xcomEntries/run_id")["value"]

    open_page(page, f"/dags/{dag}/runs/{run}/tasks/ask/details")
    for link, path in {
        "Sim run": sim_run,
        "Sim workflow": "/w/paused",
        "Sim approval": f"/resume/paused/{sim_run}",
    }.items():
        there = page.get_by_role("link", name=link)
        expect(there).to_be_visible()
        address = there.get_attribute("href") or ""
        assert address.startswith(SIM), f"{link} leads to {address}"
        assert path in address, f"{link} leads to {address}"
    picture(page, "task-links")

    open_page(page, f"/dags/{dag}/runs/{run}/tasks/decide/required_actions")
    expect(page.get_by_text("Approve the plan?")).to_be_visible()
    page.get_by_role("textbox").last.fill("Go on")
    picture(page, "approval")
    # Airflow 3.3.2 fails a task whose answer comes before its scheduler has heard that the task waits.
    heard = re.compile(f"Received executor event with state success.*task_id='decide', run_id='{run}'")
    until(lambda: heard.search(Path(told["log"]).read_text()), "the scheduler to hear of it")
    page.get_by_role("button", name="Approve", exact=True).click()
    until(lambda: call("GET", f"/dags/{dag}/dagRuns/{run}")["state"] == "success", "the DAG run to succeed")

    open_page(page, f"/dags/{dag}/runs/{run}")
    picture(page, "dag-run")


def open_page(page: Page, path: str) -> None:
    """Open one of Airflow's pages, and wait until nothing more is fetched for it."""
    page.goto(AIRFLOW + path)
    page.wait_for_load_state("networkidle")


def picture(page: Page, name: str) -> None:
    """Take a picture, once what moves has come to rest."""
    page.wait_for_timeout(700)
    page.screenshot(path=Path(told["pictures"]) / f"{name}.png")


def call(method: str, path: str, body: Any = None) -> Any:
    """Ask Airflow's REST API."""
    with urllib.request.urlopen(f"{AIRFLOW}/auth/token") as answer:
        token = json.load(answer)["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{AIRFLOW}/api/v2{path}", data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def until(condition: Any, what: str) -> None:
    """Wait for something.

    :raises TimeoutError: it didn't come.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
