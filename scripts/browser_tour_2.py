"""Browser tour of the connection form of Airflow 2.11, run by :mod:`scripts.browser`."""

from __future__ import annotations

from playwright.sync_api import Page, expect

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
)

CONNECTION = told["connection_id"]
"""Tested by :mod:`scripts.browser` with Airflow's CLI afterward, because the button doesn't send a stored key."""


def old_connection_form(page: Page) -> None:
    """Check that the form is as declared, the button shows errors, and saved values are shown, except the key."""
    open_page(page, "/connection/add")
    page.locator("#username").fill(told["user"])
    page.locator("#password").fill(told["user_password"])
    page.get_by_role("button", name="Sign In").click()
    open_page(page, "/connection/add")
    page.locator("#conn_id").fill(CONNECTION)
    page.get_by_role("combobox").click()
    page.get_by_role("option", name="Sim", exact=True).click()
    for name in STANDARD:
        expect(page.locator(f"#{name}")).to_be_visible(visible=name not in BEHAVIOUR["hidden-fields"])
    for name, words in BEHAVIOUR["placeholders"].items():
        expect(page.locator(f"#{name}")).to_have_attribute("placeholder", words)
    for name, label in BEHAVIOUR["relabeling"].items():
        expect(page.locator(f"label[for={name}]")).to_have_text(label)
    expect(page.locator("#password")).to_have_attribute("type", "password")
    for name, field in FORM["conn-fields"].items():
        row = page.get_by_role("row").filter(has=page.locator(f"#extra__sim__{name}"))
        expect(row).to_contain_text(field["label"])
        expect(row).to_contain_text(field["description"])
        row.get_by_role("textbox").fill(typed_into(name, field))
    page.locator("#host").fill(SIM)
    page.set_viewport_size({**WINDOW, "height": 1850})
    for key, fine, words in (
        ("sk-sim-of-another", False, "Put a current key"),
        (told["key"], True, f"Connected to {SIM}"),
    ):
        page.locator("#password").fill(key)
        with page.expect_response(f"{AIRFLOW}/api/v1/connections/test") as answered:
            page.get_by_role("button", name="Test").click()
        assert answered.value.json()["status"] is fine, words  # the page shows both in the same colours
        expect(page.locator(".alert").filter(has_text=words)).to_be_visible()
        expect(page.locator("body")).not_to_contain_text(told["key"])
    picture(page, "connection-form-airflow-2")
    page.get_by_role("button", name="Save").click()

    for _ in range(2):  # the second time after an edit without the key
        open_page(page, "/connection/list/")
        page.get_by_role("row").filter(has_text=CONNECTION).locator("a[href*='/connection/edit/']").click()
        expect(page.locator("#host")).to_have_value(SIM)
        expect(page.locator("#password")).to_have_value("")
        for name, field in FORM["conn-fields"].items():
            expect(page.locator(f"#extra__sim__{name}")).to_have_value(typed_into(name, field))
        page.locator("#description").fill("Edited without the key")
        page.get_by_role("button", name="Save").click()
        page.wait_for_url(f"{AIRFLOW}/connection/list/*")


if __name__ == "__main__":
    go_through(old_connection_form)
