"""Run the example DAGs on a real Airflow against the embedded emulator, and show what they did.

``python -m scripts.demo`` runs them one after the other, with one line for each (``-v``: each task), and exits with 1
if one fails unexpectedly; ``python -m scripts.demo --ui`` runs some of them in an Airflow whose UI it keeps running.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from airflow_provider_sim.emulator import SimEmulator
from scripts import local_airflow
from scripts.local_airflow import EXAMPLE_DAGS, REPO, TaskReport
from scripts.progress import progress_on

HOME = REPO / ".demo" / "airflow"
LOG = REPO / ".demo" / "demo.log"
DAG_IDS = sorted(path.stem for path in EXAMPLE_DAGS.glob("example_sim_*.py"))
SHOWN_IN_UI = ("approval", "deferrable", "errors_and_usage", "mapped", "streaming", "sync", "taskflow")
RUNS_IN_UI = 180.0  # seconds for the runs of these DAGs
OUTPUT_SHOWN = 160
ON_PURPOSE = {
    ("example_sim_errors_and_usage", "judge"): "failed",
    ("example_sim_branch", "file_ticket"): "skipped",  # the other branch
    ("example_sim_notifier", "load"): "failed",
    ("example_sim_deploy", "go_back"): "skipped",  # there is nothing to go back from
}
"""Expected states of tasks that don't succeed."""


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", action="store_true", help="keep Airflow's UI running")
    parser.add_argument("-v", "--verbose", action="store_true", help="show each task with its run and output")
    parser.add_argument("--port", type=int, default=8080, help="port of the UI (default: 8080, or a free one)")
    options = parser.parse_args()
    console = Console(file=_own_stdout(), soft_wrap=False)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with SimEmulator() as sim:
        os.environ.update(local_airflow.environment(HOME, sim_url=sim.url, sim_key=sim.api_key))
        if options.ui:
            return _serve_ui(console, options.port, sim.url)
        return _show_runs(console, sim, verbose=options.verbose)


def _own_stdout() -> TextIO:
    """Duplicate stdout, because Airflow's output is redirected to a log file."""
    return os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)


def _show_runs(console: Console, sim: SimEmulator, *, verbose: bool) -> int:
    console.print(f"{len(DAG_IDS)} example DAGs on Airflow {version('apache-airflow')} · Sim emulator at {sim.url}")
    if not verbose:
        _print_line(console, "", "", "", "tasks", "runs")
    reports: list[TaskReport] = []
    broken: list[str] = []
    began = time.monotonic()
    with progress_on(console) as progress, _output_to_log():
        steps = progress.add_task("Creating Airflow's database", total=len(DAG_IDS) + 1)
        local_airflow.create(HOME)
        for dag_id in DAG_IDS:
            progress.update(steps, advance=1, description=f"Running {dag_id}")
            runs_before = len(sim.runs)
            try:
                of_dag = local_airflow.run_dag(dag_id)
            except Exception as error:  # one broken example must not hide the others
                broken.append(f"{dag_id}: {error}")
                continue
            (_show_tasks if verbose else _show_dag)(progress.console, dag_id, of_dag, len(sim.runs) - runs_before)
            reports += of_dag
        progress.update(steps, advance=1)
    broken += [
        f"{report.dag_id}.{report.task_id} ended {report.state}" for report in reports if not _is_as_expected(report)
    ]
    if broken:
        console.print(f"[bold red]Unexpected states:[/] {'; '.join(broken)}. See {_short(LOG)}.")
        return 1
    console.print(
        f"[bold green]All {len(DAG_IDS)} DAGs finished as expected[/]: {len(reports)} tasks, {len(sim.runs)} runs,"
        f" {time.monotonic() - began:.0f} s.\nDetails: [bold]make demo V=1[/] · Airflow's UI: [bold]make demo-ui[/]"
        f" · log: {_short(LOG)}"
    )
    return 0


def _is_as_expected(report: TaskReport) -> bool:
    return report.state == ON_PURPOSE.get((report.dag_id, report.task_id), "success")


def _show_dag(console: Console, dag_id: str, reports: list[TaskReport], runs: int) -> None:
    """Print one line: what the DAG shows, its tasks and its runs in Sim."""
    title = (ast.get_docstring(ast.parse((EXAMPLE_DAGS / f"{dag_id}.py").read_text())) or "").splitlines()[0]
    mark = "[green]✓" if all(map(_is_as_expected, reports)) else "[red]✗"
    _print_line(console, mark, dag_id.removeprefix("example_sim_"), title, str(len(reports)), str(runs))


def _print_line(console: Console, *cells: str) -> None:
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(width=1)
    line.add_column(width=16, no_wrap=True, style="cyan")
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(width=5, justify="right", style="dim")
    line.add_column(width=4, justify="right", style="dim")
    line.add_row(*cells)
    console.print(line)


def _show_tasks(console: Console, dag_id: str, reports: list[TaskReport], _runs: int) -> None:
    """Print each task with mode, state, duration, Sim run and output."""
    console.print(f"\n[bold]{dag_id}[/]")
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=1)
    table.add_column(ratio=1, overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for report in reports:
        name = report.task_id if report.map_index < 0 else f"{report.task_id}[{report.map_index}]"
        text = Text.assemble((name, "cyan"), f"  {report.mode}")
        if report.state != "success":
            on_purpose = " on purpose" if _is_as_expected(report) else ""
            text.append(f"  {report.state}{on_purpose}", "yellow" if on_purpose else "red")
        if report.run_id:
            text.append(f"\nrun {report.run_id}", "dim")
        if report.output is not None:
            shown = json.dumps(report.output, ensure_ascii=False, default=str)
            text.append(f"\n→ {shown if len(shown) <= OUTPUT_SHOWN else shown[: OUTPUT_SHOWN - 1] + '…'}")
        mark = "[green]✓" if _is_as_expected(report) else "[red]✗"
        table.add_row(mark, text, "" if report.seconds is None else f"{report.seconds:.1f} s")
    console.print(table)


@contextlib.contextmanager
def _output_to_log() -> Iterator[None]:
    """Redirect the output of this process and its children to the log file."""
    kept = [os.dup(1), os.dup(2)]
    with LOG.open("w") as log:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, handle in zip((1, 2), kept, strict=True):
                os.dup2(handle, number)
                os.close(handle)


def _serve_ui(console: Console, wanted_port: int, sim_url: str) -> int:
    with console.status("Creating Airflow's database"):
        local_airflow.create(HOME)
    connection = json.loads(os.environ["AIRFLOW_CONN_SIM_DEFAULT"])
    _airflow("connections", "add", "sim_default", "--conn-json", json.dumps(connection))
    port = local_airflow.free_port(wanted_port)
    for number in (signal.SIGINT, signal.SIGTERM):  # stop Airflow, too
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        settings = {
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            # On a busy machine, Airflow's scheduler fails tasks that resume before it has noticed their deferral.
            "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "1",
            "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "5",
        }
        running = local_airflow.components(port, LOG, **settings)
        try:
            with console.status("Starting Airflow (up to a minute)"):
                api_server = stack.enter_context(running)
        except RuntimeError:
            console.print(f"[bold red]Airflow did not start[/]; see {_short(LOG)}.")
            return 1
        url = f"http://127.0.0.1:{port}"
        with console.status(f"Running {len(SHOWN_IN_UI)} example DAGs (a minute); Airflow's UI is already at {url}"):
            states = _run_in_ui(url)
        console.print(f"[bold green]Airflow's UI:[/]  {url}/dags?tags=sim  (no login)")
        console.print(f"[bold green]Sim emulator:[/]  {sim_url}  (the tasks' links lead there)\n")
        for name, state in states.items():
            console.print(f"  {name:<17} {state}", highlight=False)
        console.print(
            "\nThe buttons [bold]Sim run[/] and [bold]Sim approval[/] of a task lead to the emulator."
            "\nAnswer approval in Required Actions; trigger the other DAGs yourself."
            "\nTest the connection with its button in Admin → Connections."
            "\nThe task judge of errors_and_usage fails on purpose. Ctrl-C stops everything."
        )
        api_server.wait()
    console.print("Stopped.")
    return 0


def _run_in_ui(url: str) -> dict[str, str]:
    """Run some of the DAGs, as a user does in the UI; return the state of each run, by the DAG's short name."""
    with urllib.request.urlopen(f"{url}/auth/token", timeout=60) as answer:
        token = json.load(answer)["access_token"]

    def api(path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/api/v2{path}", data, headers), timeout=60) as answer:
            return json.load(answer)

    until, runs, states = time.monotonic() + RUNS_IN_UI, {}, dict.fromkeys(SHOWN_IN_UI, "not parsed yet")
    while time.monotonic() < until and {*states.values()} - {"success", "failed", "waits for you"}:
        time.sleep(1)
        for name in SHOWN_IN_UI:
            path = f"/dags/example_sim_{name}/dagRuns"
            try:
                run = api(f"{path}/{runs[name]}") if name in runs else api(path, {"logical_date": None})
            except urllib.error.HTTPError as error:
                if error.code != 404:  # the DAG file isn't parsed yet
                    raise
                continue
            runs[name], states[name] = run["dag_run_id"], run["state"]
            if name == "approval" and run["state"] == "running":
                tasks = api(f"{path}/{runs[name]}/taskInstances")["task_instances"]
                if any(
                    task["task_id"] == "decide" and task["state"] in ("deferred", "awaiting_input") for task in tasks
                ):
                    states[name] = "waits for you"
    return states


def _airflow(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "airflow", *words], check=True, capture_output=True, text=True)


def _short(path: Path) -> str:
    return str(path.relative_to(REPO))


if __name__ == "__main__":
    sys.exit(main())
