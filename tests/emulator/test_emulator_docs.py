"""``docs/reference/emulator.md`` is run: its examples one after the other, its tables against what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import Match, SimEmulator, control
from airflow_provider_sim.emulator.__main__ import main
from airflow_provider_sim.emulator.builtin import builtin_workflows
from airflow_provider_sim.emulator.fault_rules import OPERATIONS
from airflow_provider_sim.emulator.faults import FAULTS, RATE_LIMITS, parameters_of
from airflow_provider_sim.emulator.limits import PLANS
from airflow_provider_sim.emulator.profiles import PROFILES
from airflow_provider_sim.emulator.workflows import Workflow

REPO = Path(__file__).parents[2]
TEXT = (REPO / "docs" / "reference" / "emulator.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def table(heading: str, text: str = TEXT) -> list[list[str]]:
    """The rows of the table whose header begins with this text."""
    found = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[ -|]*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, f"there is no table of {heading}"
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in found[1].splitlines()]


def names(cell: str) -> list[str]:
    """The texts between code marks."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_example_is_tested():
    assert {kind for kind, _ in BLOCKS} == {"console", "python"}
    assert [kind for kind, _ in BLOCKS].count("console") == 1


def test_examples_run():
    shared: dict[str, object] = {}
    try:
        for kind, code in BLOCKS:
            if kind == "python":
                line = TEXT[: TEXT.index(code)].count("\n")
                exec(compile("\n" * line + code, str(REPO / "docs" / "reference" / "emulator.md"), "exec"), shared)
    finally:
        started = shared.get("sim")
        if isinstance(started, SimEmulator):
            started.stop()


def test_console_example():
    [shown] = [code for kind, code in BLOCKS if kind == "console"]
    command, *expected = shown.splitlines()
    assert command == "$ python -m airflow_provider_sim.emulator"
    process = subprocess.Popen(
        [sys.executable, *command.split()[2:], "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=REPO
    )
    try:
        told = [process.stdout.readline().rstrip("\n") for _ in expected]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    told[0] = re.sub(r":\d+ ", ":3000 ", told[0])
    assert told[:-1] == expected[:-1]
    assert expected[-1] == "  …"


def test_table_of_options(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {name for row in table("option") for name in names(row[0])} | {"--help"} == set(
        re.findall(r"--[\w-]+", capsys.readouterr().out)
    )


def test_table_of_workflows():
    assert {name for row in table("workflow") for name in names(row[0])} == {
        workflow.workflow_id for workflow in builtin_workflows()
    }


def test_table_of_workflow_options():
    told = {name for row in table("option of `sim.workflow`") for name in names(row[0])}
    own = {"workflow_id", "body", "created_at", "deployed_at", "block_id", "version", "versions", "attempt", "notes"}
    assert told == {field.name for field in fields(Workflow)} - own


def test_table_of_plans():
    limits = (REPO / "docs" / "concepts" / "rate-limits.md").read_text()
    rows = {names(row[0])[0]: [float(cell) for cell in row[1:]] for row in table("plan", limits)}
    assert rows == {
        plan.plan: [
            plan.sync_per_minute,
            plan.async_per_minute,
            plan.endpoint_per_minute,
            plan.concurrent_runs,
            plan.sync_timeout,
            plan.async_timeout,
            plan.usage_limit,
        ]
        for plan in PLANS.values()
    }


def test_table_of_limits(emulator):
    for row in table("attribute"):
        for name in names(row[0]):
            assert hasattr(emulator.state.limits, name)


def test_table_of_profiles():
    assert [names(row[0])[0] for row in table("profile")] == list(reversed(PROFILES))


def test_table_of_faults():
    documented = {}
    for row in table("fault"):
        [name] = names(row[0])
        parts = (part.partition("=") for part in names(row[1]))
        documented[name] = {key: json.loads(value) for key, _, value in parts}
    assert documented == {name: parameters_of(kind) for name, kind in FAULTS.items()}


def test_table_of_limit_kinds():
    assert tuple(names(row[0])[0] for row in table("`kind` of `rate_limit`")) == RATE_LIMITS


def test_table_of_matches():
    assert names(re.search(r"^`Match\(.*\)`", TEXT, re.MULTILINE)[0]) == [
        f"Match({', '.join(f'{field.name}=' for field in fields(Match))})"
    ]
    told = re.search(r"^- `operation`, on any API: (.*?)\.$", TEXT, re.MULTILINE | re.DOTALL)[1]
    assert set(names(told)) == set(OPERATIONS)


def test_table_of_control_endpoints():
    told = re.findall(r"`(GET|POST|DELETE) (/__emulator__/[^`]*)`", TEXT)
    there = {
        (method, re.sub(r"\{.*?\}", "{id}", route.path))
        for route in control.ROUTES[:-1]
        for method in route.methods - {"HEAD"}
    }
    assert set(told) == there
