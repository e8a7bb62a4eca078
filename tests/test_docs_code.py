"""Code of README and docs: every Python block runs as pasted, and every shell block runs or states what it needs.

The pages on the command line, on the emulator and on testing DAGs have separate tests, too.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from airflow_provider_sim.client.methods import SyncMethods
from airflow_provider_sim.emulator import SimEmulator
from scripts import docs_site
from scripts.local_airflow import EXAMPLE_DAGS, environment
from tests.airflow.conftest import KEY, Ran, new_home, run_in  # noqa: F401  fixture
from tests.docs_blocks import BLOCKS, PAGES, REPO, Block
from tests.versions import needs_airflow

RUN_ELSEWHERE = {"docs/reference/cli.md", "docs/reference/emulator.md", "docs/guides/test-dags.md"}
HERE = [block for block in BLOCKS if block.page not in RUN_ELSEWHERE]
PYTHON = [block for block in HERE if block.language == "python"]
SHELL = [block for block in HERE if block.language == "console" and not block.note.startswith("needs ")]
LOGS = [block for block in HERE if block.language == "text"]
NAMES = {"json": json.loads, "yaml": yaml.safe_load, "ini": configparser.ConfigParser().read_string}


@needs_airflow("3.1", "HITLOperator, and airflow.sdk")
@pytest.mark.parametrize("block", [block for block in PYTHON if not block.quotes], ids=str)
def test_python_block_runs_as_pasted(block, emulator, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", emulator.connection())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "pasted"}
    exec(compile(block.code, str(block), "exec"), names)
    assert "…" not in block.code, "a placeholder can't be pasted"
    for name in re.findall(r"^@dag.*\ndef (\w+)", block.code, re.MULTILINE):
        assert re.search(rf"^{name}\(\)$", block.code, re.MULTILINE), "a DAG is defined, but not created"


def test_quoted_files_are_whole_example_dags():
    quoted = [quote for block in PYTHON for quote in block.quotes]
    assert sorted(set(quoted)) == sorted(f"example_dags/{path.name}" for path in EXAMPLE_DAGS.glob("*.py"))
    assert len(quoted) == len(set(quoted)), "a DAG is quoted on two pages"


@pytest.mark.parametrize("block", [block for block in HERE if block.language in NAMES], ids=str)
def test_data_block_can_be_parsed(block):
    NAMES[block.language](block.code)


def test_every_block_is_tested_or_marked():
    assert {block.language for block in HERE} <= {"python", "console", "text", "", *NAMES}
    assert [str(block) for block in LOGS if not block.note.startswith("log of ")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_relative_links_lead_to_files(page):
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^()\s]+)\)", text) if ":" not in link and not link.startswith("#")]
    generated = {str(REPO / "docs" / uri) for uri in docs_site.PAGES}
    paths = {os.path.normpath(page.parent / link.partition("#")[0]) for link in links}
    assert [path for path in sorted(paths) if path not in generated and not Path(path).exists()] == []


def test_reference_lists_every_method_of_the_hook():
    page = (REPO / "docs" / "reference" / "hook.md").read_text()
    methods = {name for name in vars(SyncMethods) if not name.startswith("_")}
    internal = {"start_workflow_run"}  # for operators
    assert set(re.findall(r"^        - (\w+)$", page, re.MULTILINE)) == methods - internal


def dag_id(code: str) -> str | None:
    """Return the ID of the DAG that a block creates."""
    named = re.search(r'dag_id="(\w+)"', code) or re.search(r"^@dag.*\ndef (\w+)", code, re.MULTILINE)
    return named[1] if named else None


def stable(text: str) -> str:
    """Return a log line without the parts that differ between runs."""
    text = re.sub(r"(airflow-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r"127\.0\.0\.1:\d+|request \w{8}|manual__[^ '\"]+|[\d.]+ s\b|wf_\w+|\d+ bytes", "X", text)
    return re.sub(r"\s+", " ", text).strip()


@pytest.fixture(scope="module")
def pasted(new_home, tmp_path_factory) -> Ran:  # noqa: F811
    """Result of the DAGs of all blocks, each pasted into a file and run with ``dag.test()``."""
    dags = tmp_path_factory.mktemp("dags")
    blocks: dict[str, Block] = {}
    for block in PYTHON:
        if (name := dag_id(block.code)) and not block.note.startswith("needs "):
            assert name not in blocks, f"{block} and {blocks[name]} have the same DAG ID"
            blocks[name] = block
            (dags / f"{name}.py").write_text(block.code)
    with SimEmulator(api_key=KEY) as sim:
        return run_in(new_home("docs"), sim, "--dags", str(dags), *blocks)


@pytest.mark.slow
def test_dags_of_pages_succeed(pasted):
    own = {dag_id(block.code) for block in PYTHON if not block.quotes}
    states = {name: report.state for name, report in pasted.reports.items() if report.dag_id in own}
    assert set(states.values()) == {"success"}, states


@pytest.mark.slow
@pytest.mark.parametrize("block", LOGS, ids=str)
def test_log_on_the_page_is_what_the_dag_logs(block, pasted):
    lines = re.findall(r"^\S+ \[(\w+) *\] (.*?) +\[[\w.]+\]", pasted.printed, re.MULTILINE)
    logged = {stable(f"{level.upper()} - {message}") for level, message in lines}
    logged |= {stable(line) for line in pasted.printed.splitlines()}  # what tasks print
    assert [line for line in block.code.splitlines() if stable(line) not in logged] == []


@pytest.fixture
def shell(emulator, new_home, tmp_path):  # noqa: F811
    """Run commands as in a terminal of somebody with this package, an empty Airflow and a running emulator."""
    env = {**os.environ, **environment(new_home(tmp_path.name), sim_url=emulator.url, sim_key=emulator.api_key)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"

    def run(commands: str) -> SimpleNamespace:
        return subprocess.run(["bash", "-ec", commands], cwd=REPO, env=env, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_block_runs(block, shell):
    commands, shown = [], []
    for line in block.code.splitlines():
        (commands if line.startswith("$ ") else shown).append(line.removeprefix("$ "))
    ran = shell("\n".join(commands))
    assert ran.returncode == 0, ran.stderr
    printed = {stable(line) for line in ran.stdout.splitlines()}
    assert [line for line in shown if stable(line) not in printed] == []
