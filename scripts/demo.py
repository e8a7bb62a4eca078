"""Run the example DAGs on a real Airflow against the embedded emulator, and show what each task did.

``python -m scripts.demo`` runs them one after the other and exits with 1 if one fails unexpectedly;
``python -m scripts.demo --ui`` keeps Airflow running, with the connection and the DAGs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts import local_airflow
from scripts.local_airflow import EXAMPLE_DAGS, REPO, TaskReport
from scripts.progress import progress_on

HOME = REPO / ".demo" / "airflow"
LOG = REPO / ".demo" / "demo.log"
DAG_IDS = sorted(path.stem for path in EXAMPLE_DAGS.glob("example_sim_*.py"))
OUTPUT_SHOWN = 160
ON_PURPOSE = {
    ("example_sim_errors_and_usage", "judge"): "failed",
    ("example_sim_notifier", "load"): "failed",
    ("example_sim_deploy", "go_back"): "skipped",  # there is nothing to go back from
}
"""Expected states of tasks that don't succeed."""


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", action="store_true", help="keep Airflow's UI running")
    parser.add_argument("--port", type=int, default=8080, help="port of the UI (default: 8080, or a free one)")
    options = parser.parse_args()
    console = Console(file=_own_stdout(), soft_wrap=False)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    from airflow_provider_sim.emulator import SimEmulator

    with SimEmulator() as sim:
        os.environ.update(local_airflow.environment(HOME, sim_url=sim.url, sim_key=sim.api_key))
        return _serve_ui(console, options.port) if options.ui else _show_runs(console, sim.url)


def _own_stdout() -> TextIO:
    """Duplicate stdout, because Airflow's output is redirected to a log file."""
    return os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)


def _show_runs(console: Console, sim_url: str) -> int:
    console.print(f"[bold]airflow-provider-sim[/] · Sim emulator at {sim_url}")
    console.print(f"Airflow's own log: {_short(LOG)}\n")
    reports: list[TaskReport] = []
    broken: list[str] = []
    began = time.monotonic()
    with progress_on(console) as progress, _output_to_log():
        steps = progress.add_task("Creating Airflow's database", total=len(DAG_IDS) + 1)
        progress.console.print("Creating Airflow's database …", style="dim")
        local_airflow.create(HOME)
        for dag_id in DAG_IDS:
            progress.update(steps, advance=1, description=f"Running {dag_id}")
            try:
                of_dag = local_airflow.run_dag(dag_id)
            except Exception as error:  # one broken example must not hide the others
                broken.append(f"{dag_id}: {error}")
                continue
            _show_dag(progress.console, dag_id, of_dag)
            reports += of_dag
        progress.update(steps, advance=1)
    broken += [
        f"{report.dag_id}.{report.task_id} ended {report.state}" for report in reports if not _is_as_expected(report)
    ]
    if broken:
        console.print(f"[bold red]Unexpected states:[/] {'; '.join(broken)}. See {_short(LOG)}.")
        return 1
    runs = len({report.run_id for report in reports} - {None})
    console.print(
        f"[bold green]All {len(DAG_IDS)} example DAGs finished as expected[/]: {len(reports)} tasks, {runs} Sim runs,"
        f" {time.monotonic() - began:.0f} s.\nTo see them in Airflow's UI: [bold]make demo-ui[/]"
    )
    return 0


def _is_as_expected(report: TaskReport) -> bool:
    return report.state == ON_PURPOSE.get((report.dag_id, report.task_id), "success")


def _show_dag(console: Console, dag_id: str, reports: list[TaskReport]) -> None:
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


def _serve_ui(console: Console, wanted_port: int) -> int:
    with console.status("Creating Airflow's database"):
        local_airflow.create(HOME)
    connection = json.loads(os.environ["AIRFLOW_CONN_SIM_DEFAULT"])
    _airflow("connections", "add", "sim_default", "--conn-json", json.dumps(connection))
    port = local_airflow.free_port(wanted_port)
    for number in (signal.SIGINT, signal.SIGTERM):  # stop Airflow, too
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        running = local_airflow.components(port, LOG, AIRFLOW__CORE__TEST_CONNECTION="Enabled")
        try:
            with console.status("Starting Airflow (up to a minute)"):
                api_server = stack.enter_context(running)
        except RuntimeError:
            console.print(f"[bold red]Airflow did not start[/]; see {_short(LOG)}.")
            return 1
        console.print(f"[bold green]Airflow's UI: http://127.0.0.1:{port}[/]  (no login)\n")
        console.print("Trigger the DAGs tagged [bold]sim[/]; the connection is under Admin, Connections: sim_default.")
        console.print("Ctrl-C stops everything.")
        api_server.wait()
    console.print("Stopped.")
    return 0


def _airflow(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "airflow", *words], check=True, capture_output=True, text=True)


def _short(path: Path) -> str:
    return str(path.relative_to(REPO))


if __name__ == "__main__":
    sys.exit(main())
