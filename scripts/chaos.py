"""Kill workers and triggerers of a real Airflow at critical moments, and report the outcome of the Sim runs.

``python -m scripts.chaos`` kills tasks of each mode at each point and at random, 200 times in total, then two
triggerers with 50 deferred tasks each; for comparison, also tasks with the official SDK and HttpOperator. It prints
tables and exits with 1 if a trial of the provider is wrong. ``--small`` kills once at each point. ``--airflow 2.11``
uses the environment of ``make matrix CELLS=2.11/3.11``, without the comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from airflow_provider_sim.emulator import SimEmulator
from scripts.crash_trials import OTHERS, OURS, HerdReport, Mode, Point, Trial, Trials, kill_triggerer_under
from scripts.local_airflow import REPO
from scripts.matrix import AIRFLOWS, run_module_on
from scripts.progress import progress_on
from scripts.real_airflow import RealAirflow, Victim

HOME = REPO / ".chaos" / "airflow"
SDK = REPO / ".chaos" / "sdk"
DAGS = REPO / "scripts" / "chaos_dags"
CHOSEN_DAGS = REPO / ".chaos" / "dags"
SDK_LOCK = REPO / "tests" / "sdk" / "requirements-0.2.1.txt"
TRIALS, OTHERS_TRIALS, HERD = 200, 15, 50
SMALL_HERD = 10
TELLING = (Point.ACCEPTED, Point.ANSWERED)
"""Trials of the SDK and HttpOperator."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all trials and print the tables; return 1 if a trial of the provider is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS, help="kills under the provider's tasks (default: 200)")
    parser.add_argument("--others", type=int, default=OTHERS_TRIALS, help="kills under each other way (default: 15)")
    parser.add_argument("--small", action="store_true", help="each point once, a triggerer under 10 tasks")
    parser.add_argument("--seed", type=int, help="to draw the same trials again")
    parser.add_argument("--at-once", type=int, default=10, help="trials at the same time (default: 10)")
    parser.add_argument(
        "--database", choices=["postgresql", "sqlite"], help="default: PostgreSQL where it is installed"
    )
    parser.add_argument("--no-herds", action="store_true", help="skip the kills of triggerers")
    parser.add_argument("--only", help="DAG IDs of the modes, separated by commas")
    parser.add_argument("--airflow", choices=AIRFLOWS, help="a version of the matrix instead of the installed one")
    options = parser.parse_args(arguments)
    if options.airflow:
        given = sys.argv[1:] if arguments is None else arguments
        status = run_module_on(options.airflow, "scripts.chaos", given)
        if status is not None:
            return status
    seed = random.randrange(10**6) if options.seed is None else options.seed
    herd = SMALL_HERD if options.small else HERD
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(width=None if sys.stdout.isatty() else 150)
    only = options.only.split(",") if options.only else None
    known = OURS if options.airflow else [*OURS, *OTHERS]
    modes = [mode for mode in known if only is None or mode.dag_id in only]
    chance = random.Random(seed)
    ours, others = ([mode for mode in modes if mode.ours is whose] for whose in (True, False))
    if options.small:
        wanted = draw(ours, trials=0, chance=chance) + draw(others, trials=0, chance=chance, points=TELLING)
    else:
        wanted = draw(ours, trials=options.trials, chance=chance)
        wanted += draw(others, trials=options.others * len(others), chance=chance)
    began = time.monotonic()
    with SimEmulator() as sim:
        settings = {
            "CHAOS_SIM_URL": sim.url,
            "CHAOS_SIM_KEY": sim.api_key,
            "CHAOS_SDK": str(_install_sdk(SDK) if others else SDK),
            "CHAOS_DEFERRED": str(herd),
            "AIRFLOW__CORE__PARALLELISM": str(options.at_once + 4),
        }
        connections = {
            "sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key},
            "sim_http": {"conn_type": "http", "host": sim.url, "extra": {"X-API-Key": sim.api_key}},
        }
        dags = _choose_dags(others=bool(others))
        with RealAirflow(HOME, dags, connections=connections, database=options.database, settings=settings) as airflow:
            console.print(f"Airflow {airflow.version} on {airflow.database}, {len(wanted)} trials, seed {seed}")
            trials = _run(console, Trials(airflow, sim, chance=chance, at_once=options.at_once), wanted)
            herds = []
            if not options.no_herds and (only is None or "deferrable" in only):
                for one_of_two in (False, True):
                    herds.append(kill_triggerer_under(airflow, sim, tasks=herd, one_of_two=one_of_two))
    _keep(HOME / "report.json", seed, trials)
    return _tell(console, modes, trials, herds, seconds=time.monotonic() - began)


def _choose_dags(*, others: bool) -> Path:
    """Create a directory with the required DAGs: those of the comparison need packages that the matrix lacks."""
    shutil.rmtree(CHOSEN_DAGS, ignore_errors=True)
    CHOSEN_DAGS.mkdir(parents=True)
    for name in ("provider.py", *(["others.py"] if others else [])):
        shutil.copy(DAGS / name, CHOSEN_DAGS)
    return CHOSEN_DAGS


def draw(
    modes: Sequence[Mode], *, trials: int, chance: random.Random, points: Iterable[Point] = tuple(Point)
) -> list[tuple[Mode, Point]]:
    """Return each point of each mode once; the rest, up to ``trials``, half at any time and half at random points."""
    cells = [(mode, point) for mode in modes for point in mode.plans() if point in points]
    more: list[tuple[Mode, Point]] = []
    while cells and len(cells) + len(more) < trials:
        anywhere = (chance.choice(list(modes)), Point.ANY)
        more.append(anywhere if chance.random() < 0.5 else chance.choice(cells))
    drawn = cells + more
    chance.shuffle(drawn)
    return drawn


def _install_sdk(folder: Path) -> Path:
    """Install the official SDK in a directory that only its tasks import from."""
    uv = Path(sys.executable).parent / "uv"
    command = [uv, "pip", "install", "--quiet", "--require-hashes", "--python", sys.executable]
    subprocess.run([*command, "--target", folder, "-r", SDK_LOCK], check=True)
    return folder


def _run(console: Console, trials: Trials, wanted: Sequence[tuple[Mode, Point]]) -> list[Trial]:
    done = []
    with progress_on(console) as progress:
        step = progress.add_task("Killing workers", total=len(wanted))
        for trial in trials.run(wanted):
            done.append(trial)
            progress.update(step, advance=1)
            if trial.mode.ours and not _is_right(trial):
                progress.console.print(f"[red]{trial.name}[/] {trial.point}: {_described(trial)}")
    return done


def _is_right(trial: Trial) -> bool:
    return trial.verdict is not None and not trial.verdict.faults and trial.missed is None


def _described(trial: Trial) -> str:
    faults = trial.verdict.faults if trial.verdict else []
    return ", ".join(faults + ([f"never came to: {trial.missed}"] if trial.missed else []))


def _tell(
    console: Console, modes: Sequence[Mode], trials: Sequence[Trial], herds: Sequence[HerdReport], *, seconds: float
) -> int:
    console.print(_points_table(modes, trials))
    console.print(_sums_table(modes, trials))
    console.print(_victims_table([trial for trial in trials if trial.mode.ours]))
    if herds:
        console.print(_herds_table(herds))
    wrong = [trial for trial in trials if trial.mode.ours and not _is_right(trial)]
    bad_herds = [herd for herd in herds if any(verdict.faults for verdict in herd.verdicts)]
    kills = sum(trial.kills for trial in trials if trial.mode.ours)
    console.print(f"{kills} workers of the provider's tasks killed, {seconds:.0f} s in all.")
    if wrong or bad_herds:
        console.print(
            f"[bold red]Wrong: {len(wrong)} trials, {len(bad_herds)} triggerer kills.[/] Logs: {HOME.relative_to(REPO)}"
        )
        return 1
    console.print("[bold green]No run of the provider's was doubled, lost, foreign or orphaned.[/]")
    return 0


def _points_table(modes: Sequence[Mode], trials: Sequence[Trial]) -> Table:
    """Count the right trials by point."""
    table = Table(title="Right trials by the moment of the worker's SIGKILL", box=box.MARKDOWN, title_justify="left")
    table.add_column("way")
    for point in Point:
        table.add_column(point.value, justify="right")
    for mode in modes:
        cells = []
        for point in Point:
            of_cell = [trial for trial in trials if (trial.mode, trial.point) == (mode, point)]
            right = sum(_is_right(trial) for trial in of_cell)
            colour = "green" if right == len(of_cell) else "red"
            cells.append(f"[{colour}]{right}/{len(of_cell)}[/]" if of_cell else "")
        table.add_row(mode.title, *cells)
    return table


def _sums_table(modes: Sequence[Mode], trials: Sequence[Trial]) -> Table:
    """Count the outcomes by mode."""
    names = [
        "trials",
        "kills",
        "succeeded",
        "runs",
        "cancelled",
        "doubled",
        "lost",
        "foreign",
        "orphaned",
        "concurrent",
    ]
    table = Table(title="Trials by outcome", box=box.MARKDOWN, title_justify="left")
    table.add_column("way")
    for name in names:
        table.add_column(name, justify="right")
    for mode in modes:
        of_mode = [trial for trial in trials if trial.mode == mode and trial.verdict]
        verdicts = [trial.verdict for trial in of_mode if trial.verdict]
        faults = [sum(name in verdict.faults for verdict in verdicts) for name in names[5:]]
        sums = [
            len(of_mode),
            sum(trial.kills for trial in of_mode),
            sum(verdict.succeeded for verdict in verdicts),
            sum(verdict.runs for verdict in verdicts),
            sum(verdict.cancelled for verdict in verdicts),
        ]
        table.add_row(mode.title, *map(str, sums), *(f"[red]{count}[/]" if count else "0" for count in faults))
    return table


def _victims_table(trials: Sequence[Trial]) -> Table:
    """Count the provider's right trials by killed process."""
    table = Table(title="The provider's trials by killed process", box=box.MARKDOWN, title_justify="left")
    for name in ("killed", "trials", "kills", "right"):
        table.add_column(name, justify="left" if name == "killed" else "right")
    for victim in Victim:
        of_victim = [trial for trial in trials if trial.victim is victim]
        right = sum(_is_right(trial) for trial in of_victim)
        table.add_row(victim, str(len(of_victim)), str(sum(trial.kills for trial in of_victim)), str(right))
    return table


def _herds_table(herds: Iterable[HerdReport]) -> Table:
    """Outcome of the deferred tasks."""
    table = Table(title="Deferred tasks under a triggerer's SIGKILL", box=box.MARKDOWN, title_justify="left")
    for name in ("killed", "deferred", "in the killed one", "taken over after", "succeeded", "runs", "wrong"):
        table.add_column(name, justify="left" if name == "killed" else "right")
    for herd in herds:
        verdicts = herd.verdicts
        wrong = sum(bool(verdict.faults) for verdict in verdicts)
        table.add_row(
            herd.title,
            str(herd.tasks),
            str(herd.hit),
            f"{herd.seconds:.0f} s",
            str(sum(verdict.succeeded for verdict in verdicts)),
            str(sum(verdict.runs for verdict in verdicts)),
            f"[red]{wrong}[/]" if wrong else "0",
        )
    return table


def _keep(path: Path, seed: int, trials: Sequence[Trial]) -> None:
    """Write a report of each trial for debugging."""
    told: list[dict[str, Any]] = [
        {
            "name": trial.name,
            "point": trial.point,
            "victim": trial.victim,
            "seconds": trial.seconds,
            "kills": trial.kills,
            "runs": trial.verdict and trial.verdict.runs,
            "faults": _described(trial),
        }
        for trial in trials
    ]
    path.write_text(json.dumps({"seed": seed, "trials": told}, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "*")
    sys.exit(main())
