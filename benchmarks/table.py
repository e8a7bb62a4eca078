"""Tables of the benchmarks, on a terminal and as Markdown."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from rich.table import Table

__all__ = ["Table", "as_markdown", "machine", "new_table", "ratio"]


def new_table(title: str, *columns: str, labels: int = 1, notes: str = "") -> Table:
    """Create a table without rows.

    :param labels: number of leading columns with text; the others have numbers.
    :param notes: method and remarks.
    """
    table = Table(title=title, caption=notes)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < labels else "right")
    return table


def as_markdown(table: Table) -> str:
    """Return a table as Markdown."""
    names = [str(column.header) for column in table.columns]
    marks = ["--:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, marks, *rows])


def ratio(ours: float, theirs: float) -> str:
    """Format the ratio of two numbers."""
    return f"{ours / theirs:.2f}" if theirs else ""


def machine(load_before: float) -> str:
    """Describe the machine and its load.

    :param load_before: one-minute load average before the measurement.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python, airflow = platform.python_version(), version("apache-airflow")
    return (
        f"{cores} cores ({platform.machine()}), Python {python}, Airflow {airflow};"
        f" load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
