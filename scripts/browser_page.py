"""Helpers of the browser tours; stdin contains the addresses."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect, sync_playwright

PATIENCE = 90.0
"""Seconds to wait for a condition."""
WINDOW = {"width": 1280, "height": 860}

told = json.load(sys.stdin)
AIRFLOW, SIM, FORM = told["airflow"], told["sim"], told["form"]
BEHAVIOUR = FORM["ui-field-behaviour"]
STANDARD = ("description", "host", "password", "port", "login", "schema")
"""The standard fields of Airflow's form, by the names of their inputs."""
TYPED = {"verify": "true", "string": "some-id", "number": "2.5", "integer": "4"}
"""Values of extra fields by name or type."""


def go_through(*looks: Callable[[Page], None]) -> None:
    """Run tours; the first failure stops them."""
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
            print(f"Airflow {told['version']}, {look.__name__.replace('_', ' ')}: passed", flush=True)
        browser.close()


def open_page(page: Page, path: str) -> None:
    """Open a page and wait until the network is idle."""
    page.goto(AIRFLOW + path)
    page.wait_for_load_state("networkidle")


def picture(page: Page, name: str, of: Locator | None = None) -> None:
    """Take a screenshot of the page or an element, after animations."""
    page.wait_for_timeout(700)
    (of or page).screenshot(path=Path(told["pictures"]) / f"{name}.png")


def until(condition: Any, what: str) -> None:
    """Wait for a condition.

    :raises TimeoutError: the condition was not met in time.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.5)


def typed_into(name: str, field: dict[str, Any]) -> str:
    """Return a value for an extra field that isn't its default."""
    choices = field["schema"].get("enum")
    return str(choices[1]) if choices else TYPED.get(name) or TYPED[field["schema"]["type"][0]]
