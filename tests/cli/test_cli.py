"""The commands, mostly in this process; and ``docs/reference/cli.md``, whose lines they print."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from packaging.version import Version

from airflow_provider_sim.__main__ import parser
from airflow_provider_sim.cli.commands import ExitCode
from airflow_provider_sim.cli.definition import get_sim_cli_commands
from tests.canned_server import closed_port
from tests.versions import AIRFLOW, needs_airflow

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
[SHOWN] = re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
EXAMPLES = [example.split("\n", 1) for example in re.split(r"^\$ ", SHOWN, flags=re.MULTILINE) if example]


@pytest.fixture
def sim(emulator, monkeypatch, capsys):
    """Carry a command out; its exit code, stdout and stderr."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")  # which a command sets

    def call(*words: str) -> SimpleNamespace:
        arguments = parser().parse_args(words)
        with pytest.raises(SystemExit) as ended:
            arguments.func(arguments)
        told = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=told.out, err=told.err)

    return call


def parsed(ran):
    """The one JSON value that a command prints."""
    return json.loads(ran.out)


def told(text: str) -> str:
    """A text without what differs from one time to the next."""
    text = re.sub(r"airflow-[0-9a-f-]{36}", "RUN", text)
    text = re.sub(r"127\.0\.0\.1:\d+|request \w{8}", "X", text)
    return "\n".join(line.rstrip() for line in text.splitlines() if not re.match(r"(Started|Duration|Cost) ", line))


@pytest.mark.sim_emulator(plan="free")
@pytest.mark.parametrize(("command", "expected"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_docs_examples_match_the_output(sim, command, expected):
    words, _, filtered = command.partition(" | ")
    airflow, name, *arguments = shlex.split(words)
    assert (airflow, name) == ("airflow", "sim")
    ran = sim(*arguments)
    printed = parsed(ran)["status"] if filtered else ran.out or ran.err
    assert told(printed) == told(expected)


def test_docs_list_every_command_and_option():
    commands = re.findall(r"^\| `(\w+)[^`]*` \| ", TEXT, re.MULTILINE)
    [group] = get_sim_cli_commands()
    assert commands == [command.name for command in group.subcommands]
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", TEXT, re.MULTILINE)
    shown = {(name, of.strip("`")) for names, of in rows for name in re.findall(r"`(--[\w-]+)`", names)}
    there = {
        (flag, "all" if flag in ("--json", "--conn-id") else command.name)
        for command in group.subcommands
        for arg in command.args
        for flag in arg.flags
        if flag.startswith("-")
    }
    assert shown == there


def test_docs_list_every_exit_code():
    codes = re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)
    assert [int(code) for code in codes] == sorted([*ExitCode, 2])


@pytest.mark.sim_emulator(profile="v0.8-legacy")
def test_check_names_the_legacy_api(sim):
    assert re.search(r"^API +legacy$", sim("check").out, re.MULTILINE)
    assert parsed(sim("check", "--json"))["api"] == "legacy"


def test_run_reads_a_file_and_prints_the_status(sim, emulator, tmp_path):
    given = tmp_path / "input.json"
    given.write_text('{"message": "from a file"}')
    ran = sim("run", "echo_plain", "--json", "--input", f"@{given}")
    assert (ran.code, parsed(ran)["output"]["result"]["message"]) == (0, "from a file")
    assert sim("run", "failing").code == ExitCode.NOT_COMPLETED
    assert sim("run", "paused", "--async", "--poll-interval", "0.01").code == ExitCode.PAUSED
    assert emulator.inputs_of("echo_plain") == [{"message": "from a file", "count": 0, "payload": {}}]


@pytest.fixture
def named(emulator):
    """Workflows with UUIDs, which Sim's have; two of them have the same name."""
    ids = [f"3b1f7c92-8d4e-4a6b-9c0d-5e2f8a71400{number}" for number in range(4)]
    for workflow_id, name, deployed in zip(
        ids, ("Letter", "Twin", "Twin", "Draft"), (True, True, True, False), strict=True
    ):
        emulator.workflow(workflow_id, name=name, deployed=deployed, inputs={"to": "string"})(dict)
    return ids


def paths(emulator) -> list[str]:
    return [request.path.partition("?")[0].removeprefix("/api/v2/") for request in emulator.requests]


def test_workflows_are_listed_with_their_inputs(sim, emulator, named):
    for number in range(100):  # two pages
        emulator.workflow(f"more_{number}")(dict)
    rows = [line.rstrip().split(maxsplit=3) for line in sim("workflows").out.splitlines()]
    assert rows[0] == ["Workflow", "Name", "Deployed", "Inputs"]
    assert [named[0], "Letter", "yes", "to: string"] in rows
    assert [named[3], "Draft", "no", "to: string"] in rows
    assert len(rows) == 1 + len(emulator.state.workflows)
    ids = list(emulator.state.workflows)
    lists = ["workspaces", "workflows"] + [f"workflows/{each}" for each in ids[:100]]
    assert paths(emulator) == [*lists, "workflows", *(f"workflows/{each}" for each in ids[100:])]
    listed = parsed(sim("workflows", "--json"))
    assert {workflow["workflow_id"] for workflow in listed} == set(ids)
    assert [workflow["inputs"] for workflow in listed if workflow["name"] == "Letter"] == [
        [{"name": "to", "type": "string"}]
    ]


def test_workflow_is_found_by_its_name(sim, emulator, named, monkeypatch):
    ran = sim("run", "Letter", "--json")
    assert (ran.code, parsed(ran)["workflow_id"]) == (0, named[0])
    assert paths(emulator) == ["workspaces", "workflows", f"workflows/{named[0]}/execute"]
    assert sim("status", "Letter", parsed(ran)["run_id"]).code == 0
    emulator.state.requests.clear()
    monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", emulator.connection(extra={"workspace_id": emulator.workspace_id}))
    assert sim("run", "Letter").code == sim("run", named[0]).code == 0
    assert paths(emulator) == ["workflows", *[f"workflows/{named[0]}/execute"] * 2]


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("Twin", "INVALID_INPUT", "0d-5e2f8a714001 .*0d-5e2f8a714002 "),
        ("Leter", "NOT_FOUND", "'Letter'"),
        ("?", "NOT_FOUND", "workflows"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_name_of_several_workflows_or_none_starts_no_run(sim, emulator, named, command, name, code, hint):
    ran = sim(command, name, "--json")
    assert (ran.code, parsed(ran)["error"]["code"]) == (ExitCode.ERROR, code)
    assert re.search(hint, ran.err)
    assert emulator.runs == []


def test_check_shows_a_workflow(sim, named):
    ran = sim("check", "Letter")
    assert ran.code == 0
    shown = [line.rstrip().split(maxsplit=1) for line in ran.out.splitlines()][-4:]
    assert shown == [["Workflow", named[0]], ["Name", "Letter"], ["Deployed", "yes"], ["Inputs", "to: string"]]
    ran = sim("check", named[3], "--json")
    assert (ran.code, parsed(ran)["workflow"]["is_deployed"]) == (ExitCode.NOT_COMPLETED, False)


@pytest.mark.sim_emulator(profile="v0.8-legacy")
def test_legacy_api_finds_workflows_by_id_only(sim, named):
    assert sim("run", "echo_plain").code == 0
    assert parsed(sim("run", "Letter", "--json"))["error"]["code"] == "WORKFLOW_NOT_FOUND"
    ran = sim("workflows")
    assert (ran.code, "requires Sim's v2 API" in ran.err) == (ExitCode.ERROR, True)


@pytest.mark.parametrize("given", ["{", "@/nowhere/at/all"])
def test_input_that_is_not_json_starts_no_run(sim, emulator, given):
    ran = sim("run", "echo", "--json", "--input", given)
    assert (ran.code, parsed(ran)["error"]["code"]) == (ExitCode.ERROR, "INVALID_INPUT")
    assert "can't be read as JSON" in ran.err
    assert emulator.runs == []


def test_stream_prints_the_selected_text(sim):
    ran = sim("run", "streaming", "--input", '{"message": "hi"}', "--stream", "--select", "Agent.content")
    assert ran.code == 0
    assert "You wrote: hi.\n" in ran.err
    assert "You wrote: hi." in ran.out


def test_json_contains_the_streamed_output(sim, emulator):
    ran = sim("run", "streaming", "--input", '{"message": "hi"}', "--stream", "--select", "Agent.content", "--json")
    block = emulator.state.workflows["streaming"].block_id
    assert ran.code == 0
    assert parsed(ran)["output"][block].startswith("You wrote: hi.")


def test_selector_without_output_fails(sim):
    ran = sim("run", "streaming", "--input", '{"message": "hi"}', "--stream", "--select", "Agnet.content", "--json")
    assert (ran.code, parsed(ran)["error"]["code"]) == (ExitCode.ERROR, "OUTPUT_ERROR")
    assert "Agnet.content" in ran.err


def test_timeout_cancels_the_run(sim, emulator):
    ran = sim("run", "slow", "--async", "--timeout", "0.05", "--poll-interval", "0.01")
    assert ran.code == ExitCode.ERROR
    assert "did not finish within the timeout" in ran.err
    assert [run.status for run in emulator.runs] == ["cancelled"]


def test_status_and_cancel_report_the_run_state(sim, emulator):
    run_id = sim("run", "slow", "--no-wait").out.strip()
    assert parsed(sim("status", "slow", run_id, "--json"))["status"] == "running"
    ran = sim("cancel", "slow", run_id, "--json")
    assert (ran.code, parsed(ran)["status"]) == (0, "cancelled")
    assert sim("status", "slow", run_id).code == ExitCode.NOT_COMPLETED
    assert sim("cancel", "slow", run_id).code == 0
    done = parsed(sim("run", "echo_plain", "--json"))["run_id"]
    assert sim("cancel", "echo_plain", done).code == ExitCode.NOT_COMPLETED
    assert '"result"' in sim("status", "echo_plain", done).out


def test_cancel_prints_the_final_status(sim, emulator):
    run_id = sim("run", "slow", "--no-wait").out.strip()
    assert sim("cancel", "slow", run_id).out == f"Run {run_id} is cancelled.\n"
    done = parsed(sim("run", "echo_plain", "--json"))["run_id"]
    assert sim("cancel", "echo_plain", done).out == f"Run {done} was completed before it could be cancelled.\n"


def test_run_waiting_for_a_person_exits_as_paused(sim):
    ran = sim("run", "paused", "--json")
    status = sim("status", "paused", parsed(ran)["run_id"], "--json")
    assert (ran.code, status.code, parsed(status)["status"]) == (ExitCode.PAUSED, ExitCode.PAUSED, "paused")


def test_status_of_an_automatic_pause_exits_with_success(sim):
    run_id = parsed(sim("run", "waiting", "--no-wait", "--json"))["run_id"]
    status = sim("status", "waiting", run_id, "--json")
    assert (status.code, parsed(status)["status"]) == (ExitCode.SUCCESS, "paused"), "still in progress"


@pytest.mark.parametrize(
    ("workflow_id", "page"),
    [("failing", "/workspace?redirect_workflow=failing"), ("paused", "/resume/paused/{run_id}")],
)
def test_failed_and_paused_runs_show_their_link(sim, emulator, workflow_id, page):
    ran = parsed(sim("run", workflow_id, "--json"))
    link = emulator.url + page.format(run_id=ran["run_id"])
    assert ran["url"] == link
    assert f"Link      {link}" in sim("status", workflow_id, ran["run_id"]).out


def test_environment_overrides_the_default_but_no_named_connection(sim, emulator, monkeypatch):
    monkeypatch.setenv("SIM_API_KEY", emulator.api_key)
    monkeypatch.setenv("SIM_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr("airflow_provider_sim.client.sync_client.SimClient._sleep", staticmethod(lambda seconds: None))
    assert sim("check").code == ExitCode.ERROR
    assert sim("check", "--conn-id", "sim_default").code == 0
    ran = sim("check", "--conn-id", "nowhere")
    assert "Connection 'nowhere' doesn't exist" in ran.err
    assert "Traceback" not in ran.err


def wait_until_asleep(process):
    """Until it waits for its answer: Python may oversleep a signal that comes just before it begins to wait."""
    deadline = time.monotonic() + 60
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_cancels_the_run(emulator):
    environment = {**os.environ, "SIM_API_KEY": emulator.api_key, "SIM_BASE_URL": emulator.url}
    with emulator.hold("execute", when="accepted", proxied=True) as hold:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_sim", "run", "slow"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # shells ignore it in the background
        )
        try:
            hold.wait_until_held(timeout=60)
            wait_until_asleep(process)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED, err
    [run] = emulator.runs
    assert f"Run {run.run_id} is cancelled" in err
    assert (out, run.status, "Traceback" in err) == ("", "cancelled", False)


@pytest.mark.slow
@needs_airflow("3.2", "commands of providers")
def test_airflow_registers_the_sim_commands(emulator, tmp_path):
    """Airflow's own log must not mix with the JSON on stdout."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    command = [sys.executable, "-m", "airflow", "sim", "check", "--json"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["base_url"] == emulator.url


@pytest.mark.slow
def test_check_reads_connections_from_airflow_s_database(emulator, tmp_path):
    """The connection is only in Airflow's database."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SIM_"))}
    environment |= {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}

    def airflow(*words):
        command = [sys.executable, "-m", *words]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    airflow("airflow", "db", "migrate")
    connection = ["--conn-type", "sim", "--conn-host", emulator.url, "--conn-password", emulator.api_key]
    airflow("airflow", "connections", "add", "sim_default", *connection)
    for program in ["airflow_provider_sim"], *([["airflow", "sim"]] if Version("3.2") <= AIRFLOW else []):
        assert json.loads(airflow(*program, "check", "--json"))["base_url"] == emulator.url


def test_cli_definition_imports_no_heavy_modules():
    code = """
import sys
import airflow_provider_sim.cli.definition
print(sorted({name.split(".")[0] for name in sys.modules} & {"rich", "requests", "httpx", "tenacity", "airflow"}))
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"
