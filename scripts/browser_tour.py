"""Browser tour of Airflow 3, run by :mod:`scripts.browser`."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from scripts.browser_page import (
    AIRFLOW,
    BEHAVIOUR,
    FORM,
    SIM,
    STANDARD,
    WINDOW,
    go_through,
    open_page,
    picture,
    told,
    typed_into,
    until,
)


def connection_form(page: Page) -> None:
    """Check that the form is as declared, saves its values, and neither shows nor loses the key."""
    open_page(page, "/connections")
    form = new_connection(page, "sim_from_form")
    for name in STANDARD:
        expect(form.locator(f"[name={name}]")).to_have_count(0 if name in BEHAVIOUR["hidden-fields"] else 1)
    for name, words in BEHAVIOUR["placeholders"].items():
        expect(form.locator(f"[name={name}]")).to_have_attribute("placeholder", words)
    host, port = SIM.rsplit(":", 1)
    for name, value in {"host": host, "port": port, "password": told["key"]}.items():
        form.get_by_label(BEHAVIOUR["relabeling"].get(name, name.title()), exact=True).fill(value)
    expect(form.locator("[name=password]")).to_have_attribute("type", "password")
    picture(page, "connection-form")

    form.get_by_role("button", name="Extra Fields", exact=True).click()
    page.set_viewport_size({**WINDOW, "height": 1500})
    picture(page, "connection-extras", of=form)
    page.set_viewport_size(WINDOW)
    typed = {name: type_extra(page, form, name, field) for name, field in FORM["conn-fields"].items()}
    form.get_by_role("button", name="Save").click()
    expect(form).to_have_count(0)
    stored = json.loads(call("GET", "/connections/sim_from_form")["extra"])
    assert {name: str(value) for name, value in stored.items()} == typed, stored

    row_of(page, "sim_from_form").get_by_label("Edit Connection").click()
    form = page.get_by_role("dialog")
    expect(form.locator("[name=password]")).to_have_value("***")
    form.get_by_label("Show value").click()
    expect(form.locator("[name=password]")).to_have_value("***")
    form.locator("[name=description]").fill("Edited without the key")
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    for name, value in typed.items():
        expect(form.locator(f"[name=element_{name}]")).to_have_value(value)
    form.get_by_role("button", name="Save").click()
    expect(form).to_have_count(0)
    expect(row_of(page, "sim_from_form")).to_contain_text("Edited without")
    press_test(page, "sim_from_form", "success", f"Connected to {SIM} (v2 API, workspace")
    picture(page, "connection-test")


def new_connection(page: Page, name: str) -> Locator:
    """Open the form of a new connection of type Sim."""
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.get_by_role("textbox").first.fill(name)
    form.get_by_role("combobox").click()
    page.keyboard.type("Sim")
    page.get_by_role("option", name="Sim", exact=True).click()
    return form


def type_extra(page: Page, form: Locator, name: str, field: dict[str, Any]) -> str:
    """Fill in an extra field, check its label and help, and return the value."""
    place = form.get_by_role("group").filter(has=page.get_by_text(field["label"], exact=True))
    expect(place.get_by_text(field["description"], exact=True)).to_be_visible()
    value = typed_into(name, field)
    if "enum" in field["schema"]:
        expect(place.locator(f"[name=element_{name}]")).to_have_value(field["schema"]["default"])
        place.get_by_role("combobox").click()
        page.get_by_role("option", name=value, exact=True).click()
    else:
        place.locator(f"[name=element_{name}]").fill(value)
    return value


def connection_test(page: Page) -> None:
    """Check that the button turns red for each invalid connection, and shows what to change.

    All have a port: without one, Airflow 3.3.2 sends port 0, which it rejects because another port is stored
    (apache/airflow#73298).
    """
    wrong = {re.sub(r"\W+", "_", bad["label"]).strip("_"): bad for bad in told["bad"]}
    for name, bad in wrong.items():
        call("POST", "/connections", {"connection_id": name, **bad["connection"]})
    open_page(page, "/connections")
    for name, bad in wrong.items():
        press_test(page, name, "error", bad["advice"])
        if name == "another_key":
            picture(page, "connection-test-failed")


def press_test(page: Page, name: str, kind: str, words: str) -> None:
    """Press the test button of a connection in the list and check the result."""
    button = row_of(page, name).get_by_label("Test Connection")
    with page.expect_response(f"{AIRFLOW}/api/v2/connections/test") as answered:
        button.click()
    page.mouse.move(640, 40)  # the button's tooltip would cover the next one
    message = answered.value.json()["message"]
    assert words in message, f"{name}: {message}"
    assert told["key"] not in message, f"{name}: {message}"
    expect(page.locator(f"[data-scope=toast][data-type={kind}]").filter(has_text=message).first).to_be_visible()
    expect(button.locator("svg")).to_have_attribute("color", {"success": "green", "error": "red"}[kind])


def row_of(page: Page, name: str) -> Locator:
    """Return a connection's row."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))


def approval(page: Page) -> None:
    """Answer Sim's question in Airflow, and follow the task's links."""
    dag, run = "example_sim_approval", f"tour-{int(time.time())}"
    call("POST", f"/dags/{dag}/dagRuns", {"dag_run_id": run, "logical_date": None})
    tasks = f"/dags/{dag}/dagRuns/{run}/taskInstances"
    until(lambda: call("GET", f"{tasks}/decide")["state"] in ("awaiting_input", "deferred"), "the question to be asked")
    sim_run = call("GET", f"{tasks}/ask/xcomEntries/run_id")["value"]

    open_page(page, f"/dags/{dag}/runs/{run}/tasks/ask/details")
    for link, title in {
        "Sim run": f"Run {sim_run}",
        "Sim approval": f"Approval of run {sim_run}",
    }.items():
        with page.expect_popup() as opened:
            page.get_by_role("link", name=link).click()
        expect(opened.value.get_by_role("heading", name=title, exact=True)).to_be_visible()
        assert opened.value.url.startswith(SIM), f"{link} leads to {opened.value.url}"
        opened.value.close()
    picture(page, "task-links")

    open_page(page, f"/dags/{dag}/runs/{run}/tasks/decide/required_actions")
    expect(page.get_by_text("Approve the plan?")).to_be_visible()
    page.get_by_role("textbox").last.fill("Go on")
    picture(page, "approval")
    # Airflow 3.3.2 fails a task if it is answered before the scheduler has processed the deferral.
    heard = re.compile(f"Received executor event with state success.*task_id='decide', run_id='{run}'")
    until(lambda: heard.search(Path(told["log"]).read_text()), "the scheduler to process the deferral")
    page.get_by_role("button", name="Approve", exact=True).click()
    until(lambda: call("GET", f"/dags/{dag}/dagRuns/{run}")["state"] == "success", "the DAG run to succeed")

    open_page(page, f"/dags/{dag}/runs/{run}")
    picture(page, "dag-run")


def call(method: str, path: str, body: Any = None) -> Any:
    """Send a request to Airflow's REST API."""
    with urllib.request.urlopen(f"{AIRFLOW}/auth/token") as answer:
        token = json.load(answer)["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{AIRFLOW}/api/v2{path}", data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


if __name__ == "__main__":
    go_through(connection_form, connection_test, approval)
