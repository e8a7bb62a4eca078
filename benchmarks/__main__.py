"""Command line of the benchmarks: ``python -m benchmarks [--markdown] [--smoke] [NAME...]``."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from types import ModuleType

from rich.console import Console

import benchmarks
from benchmarks.table import Table, as_markdown, machine

PAGE = Path(__file__).resolve().parent.parent / "docs" / "design" / "benchmarks.md"


def all_benchmarks() -> dict[str, ModuleType]:
    """Return the benchmark modules of this package by name."""
    names = [found.name for found in pkgutil.iter_modules(benchmarks.__path__) if found.name != "__main__"]
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks, one after the other."""
    known = all_benchmarks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the cost of the provider.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}, or a prefix; default: all")
    parser.add_argument("--markdown", action="store_true", help=f"also write the tables to docs/{PAGE.name}")
    parser.add_argument("--smoke", action="store_true", help="small sizes; no Airflow unless it is named")
    options = parser.parse_args(arguments)
    everything = [name for name, module in known.items() if not (options.smoke and hasattr(module, "REAL_AIRFLOW"))]
    chosen = [name for name in known if name.startswith(tuple(options.names))] if options.names else everything
    if not chosen:
        parser.error(f"unknown benchmark; choose from {', '.join(known)}")
    logging.disable()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each task would compile modules that users install compiled
    console = Console(width=None if sys.stdout.isatty() else 150)
    for name in chosen:
        sections = []
        load = os.getloadavg()[0]
        for table in known[name].measure(smoke=options.smoke):
            show(console, table)
            sections.append(section(table))
        sections.append(fill(f"*{machine(load)}*", 120))
        console.print(f"{machine(load)}\n", style="dim", highlight=False)
        if options.markdown:
            PAGE.write_text(with_section(PAGE.read_text(), name, "\n\n".join(sections)))
    return 0


def show(console: Console, table: Table) -> None:
    """Print a table and its notes."""
    notes, table.caption = table.caption, None
    console.print(table)
    if notes:
        console.print(f"{notes}\n", style="dim", highlight=False, markup=False)
    table.caption = notes


def section(table: Table) -> str:
    """Return a table with title and notes as Markdown."""
    parts = [f"## {table.title}", as_markdown(table), fill(str(table.caption or ""), 120)]
    return "\n\n".join(part for part in parts if part)


def with_section(page: str, name: str, text: str) -> str:
    """Return the page with the section replaced, or appended."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = f"{begin}\n\n{text}\n\n{end}"
    if begin not in page:
        return f"{page.rstrip()}\n\n{text}\n"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: text, page, flags=re.DOTALL)


if __name__ == "__main__":
    sys.exit(main())
