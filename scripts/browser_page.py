"""What the tours through Airflow's pages have in common; what stands on stdin says where these are."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect, sync_playwright

PATIENCE = 90.0
"""Seconds for something to get where it should be."""
WINDOW = {"width": 1280, "height": 860}

told = json.load(sys.stdin)
AIRFLOW, SIM, FORM = told["airflow"], told["sim"], told["form"]
BEHAVIOUR = FORM["ui-field-behaviour"]
STANDARD = ("description", "host", "password", "port", "login", "schema")
"""The standard fields of Airflow's form, by the names of their inputs."""
TYPED = {"verify": "true", "string": "some-id", "number": "2.5", "integer": "4"}
"""What goes into an extra field, by its name or its type."""


def go_through(*looks: Callable[[Page], None]) -> None:
    """Go from page to page; the first that isn't as it should be ends it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=told["chromium"], args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW)
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        for look in looks:
            try:
                look(page)
            except Exception:
                page.screenshot(path=Path(told["log"]).with_name("where-it-ended.png"))
                raise
            print(f"Airflow {told['version']}, {look.__name__.replace('_', ' ')}: as it should be", flush=True)
        browser.close()


def open_page(page: Page, path: str) -> None:
    """Open one of Airflow's pages, and wait until nothing more is fetched for it."""
    page.goto(AIRFLOW + path)
    page.wait_for_load_state("networkidle")


def picture(page: Page, name: str, of: Locator | None = None) -> None:
    """Take a picture of the page or a part of it, once what moves has come to rest."""
    page.wait_for_timeout(700)
    (of or page).screenshot(path=Path(told["pictures"]) / f"{name}.png")


def until(condition: Any, what: str) -> None:
    """Wait for something.

    :raises TimeoutError: it didn't come.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.5)


def typed_into(name: str, field: dict[str, Any]) -> str:
    """A value for a declared extra field, one that isn't its default where there are choices."""
    choices = field["schema"].get("enum")
    return str(choices[1]) if choices else TYPED.get(name) or TYPED[field["schema"]["type"][0]]
