"""The tables that answer the questions: rich's, on a terminal and as Markdown."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from rich.table import Table

__all__ = ["Table", "as_markdown", "machine", "new_table", "ratio"]


def new_table(title: str, *columns: str, words: int = 1, notes: str = "") -> Table:
    """A table without rows.

    :param words: how many of its columns, which come first, hold words; the others hold figures.
    :param notes: how it was measured, and what is to be known beside.
    """
    table = Table(title=title, caption=notes)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < words else "right")
    return table


def as_markdown(table: Table) -> str:
    """A table as a page of documentation holds it."""
    names = [str(column.header) for column in table.columns]
    marks = ["--:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, marks, *rows])


def ratio(ours: float, theirs: float) -> str:
    """One figure as a multiple of another."""
    return f"{ours / theirs:.2f}" if theirs else ""


def machine(load_before: float) -> str:
    """What the figures were measured on, and what else it did.

    :param load_before: the load average of the last minute before the measurement.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python, airflow = platform.python_version(), version("apache-airflow")
    return (
        f"{cores} cores ({platform.machine()}), Python {python}, Airflow {airflow};"
        f" processes that wanted a core (load average): {load_before:.1f} before, {os.getloadavg()[0]:.1f} at the end."
    )
