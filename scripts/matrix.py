"""Test the package on every supported Airflow and Python version, and print the results as a table.

``python -m scripts.matrix`` tests every cell whose Python is installed, ``python -m scripts.matrix 3.1 2.11/3.11`` the
cells of one Airflow and one cell. With ``--border`` only imports, metadata and the border tests run: the tests of what
Airflow and the package do together. The exit code is 1 if a cell fails, or was named and its Python is missing. Where
``debootstrap`` is installed, root gets a missing Python from Debian's next suite.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

REPO = Path(__file__).resolve().parent.parent
HOME = REPO / ".matrix"
LOCKS = REPO / "scripts" / "matrix_locks"

UV = str(REPO / ".venv" / "bin" / "uv")

AIRFLOWS = ("2.11", "3.0", "3.1", "3.2", "3.3")
PYTHONS = ("3.11", "3.12", "3.13")
DEBIANS = ("3.13",)
"""Pythons that Debian's next suite has."""

FULL = {("2.11", "3.11"), ("2.11", "3.12"), ("3.3", "3.11"), ("3.3", "3.13")}
"""The corners, which run the whole fast suite, too. The other cells run imports, metadata and the border tests."""

NOT_MEANT = {
    ("2.11", "3.13"): "Airflow 2.11 is for Python 3.12 and earlier",
    ("3.0", "3.13"): "Airflow 3.0 is for Python 3.12 and earlier",
}
"""Cells that are not tested, and why."""

FULL_TESTS = ("-m", "not airflow and not sdk")
SMALL_TESTS = (
    "tests/test_package.py",
    "tests/hooks",
    "tests/operators/test_event_trigger.py",
)
BORDER = ("tests/border", "tests/airflow/test_modes.py")
TIMEOUT = 2700.0
"""Seconds for the tests of one cell."""


@dataclass(frozen=True)
class Cell:
    """One Airflow on one Python.

    :param interpreter: path or name of that Python.
    :param enter: command prefix to run it.
    """

    airflow: str
    python: str
    interpreter: str
    enter: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name on the command line."""
        return f"{self.airflow}/{self.python}"

    @property
    def home(self) -> Path:
        """Directory of its environment."""
        return HOME / f"airflow-{self.airflow}-python-{self.python}"

    @property
    def is_full(self) -> bool:
        """Whether all tests without a real Airflow run."""
        return (self.airflow, self.python) in FULL


@dataclass(frozen=True)
class Outcome:
    """Result of a cell."""

    text: str
    red: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Test the cells and print the table; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", help="Airflow, or Airflow/Python; default: all")
    parser.add_argument("--border", action="store_true", help="skip the fast suite in the corners")
    parser.add_argument("--install-only", action="store_true", help="only create the environments")
    options = parser.parse_args(arguments)
    wanted = [(a, p) for a in AIRFLOWS for p in PYTHONS if not options.cells or {a, f"{a}/{p}"} & set(options.cells)]
    if not wanted:
        parser.error(f"unknown cell: {' '.join(options.cells)}; choose Airflow {', '.join(AIRFLOWS)}, or 3.1/3.11")
    console = Console(width=None if sys.stdout.isatty() else 150)
    outcomes: dict[tuple[str, str], Outcome] = {}
    for airflow, python in wanted:
        outcomes[airflow, python] = outcome = _outcome(airflow, python, options)
        console.print(f"Airflow {airflow}, Python {python}: {outcome.text}", highlight=False)
    console.print(_table(outcomes))
    return int(any(outcome.red for outcome in outcomes.values()))


def run_module_on(airflow: str, module: str, arguments: Sequence[str]) -> int | None:
    """Run a module on another Airflow of the matrix.

    :return: the exit status; None where that Airflow is the installed one.
    """
    if metadata.version("apache-airflow").startswith(f"{airflow}."):
        return None
    python = Cell(airflow, "3.11", "", ()).home / "bin" / "python"
    if not python.exists():
        print(f"There is no {python}. Run: make matrix CELLS={airflow}/3.11", file=sys.stderr)
        return 2
    return subprocess.run([python, "-m", module, *arguments], cwd=REPO, check=False).returncode


@functools.cache
def _find(python: str) -> tuple[str, tuple[str, ...]] | None:
    """Return a Python's path or name and the command prefix to run it, or None if it isn't available."""
    name = f"python{python}"
    pyenv = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{python}.*/bin/{name}"))
    for path in (sys.executable, shutil.which(name), *map(str, pyenv)):
        if path and _says((path, "-V")).startswith(f"Python {python}."):
            return path, ()
    enter = (str(REPO / "scripts" / "debian_python.sh"), str(HOME / f"debian-{name}"), name)
    if python in DEBIANS and shutil.which("debootstrap") and os.geteuid() == 0 and _says((*enter, name, "-V")):
        return name, enter
    return None


def _says(command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False).stdout


def _outcome(airflow: str, python: str, options: argparse.Namespace) -> Outcome:
    if (airflow, python) in NOT_MEANT:
        return Outcome(NOT_MEANT[airflow, python])
    found = _find(python)
    if found is None:
        named = f"{airflow}/{python}" in options.cells
        return Outcome(f"{'RED: ' if named else ''}no Python {python} here", red=named)
    cell, began = Cell(airflow, python, *found), time.monotonic()
    results = []
    try:
        _install(cell)
        for tests in [] if options.install_only else _tests(cell, border_only=options.border):
            results.append(_test(cell, *tests))
    except subprocess.SubprocessError as error:
        output = getattr(error, "stdout", None) or b""
        log = cell.home / "failed.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(output)
        print(output.decode(errors="replace")[-20_000:])
        return Outcome(f"RED: {_last_words(output)} ({log.relative_to(REPO)})", red=True)
    return Outcome(f"{' + '.join(results) or 'installed'}, {time.monotonic() - began:.0f} s")


def _tests(cell: Cell, *, border_only: bool) -> Iterator[tuple[str, ...]]:
    yield ("-n", "auto", *(FULL_TESTS if cell.is_full and not border_only else SMALL_TESTS))
    yield ("-n", "4", "--dist", "loadfile", *BORDER)  # they mostly sleep


def _install(cell: Cell) -> None:
    """Create the cell's environment from its lock.

    :raises subprocess.SubprocessError: the installation failed; its output is in the error.
    """
    python = str(cell.home / "bin" / "python")
    lock = str(LOCKS / f"airflow-{cell.airflow}.txt")
    _run(cell, UV, "venv", "--quiet", "--clear", "--python", cell.interpreter, str(cell.home))
    _run(cell, UV, "pip", "sync", "--require-hashes", "--python", python, lock)
    _run(cell, UV, "pip", "install", "--no-deps", "--no-build-isolation", "--python", python, "--editable", ".")
    # Airflow 2 looks for connections in its database.
    _run(cell, python, "-m", "airflow", "db", "migrate")


def _test(cell: Cell, *arguments: str) -> str:
    """Run tests.

    :return: the numbers of passed and skipped tests.
    :raises subprocess.SubprocessError: a test failed; the error has the output.
    """
    output = _run(cell, str(cell.home / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    return ", ".join(re.findall(r"\d+ (?:passed|skipped|xfailed)", _last_words(output)))


def _run(cell: Cell, *command: str) -> bytes:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    environment |= {"AIRFLOW_HOME": str(cell.home / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    return subprocess.run(
        [*cell.enter, *command],
        cwd=REPO,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=True,
    ).stdout


def _last_words(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1].strip("= ") if lines else "timed out"


def _table(outcomes: dict[tuple[str, str], Outcome]) -> Table:
    pythons = sorted({python for _, python in outcomes})
    table = Table("Airflow", *(f"Python {python}" for python in pythons), box=box.MARKDOWN)
    for airflow in AIRFLOWS:
        if any(name == airflow for name, _ in outcomes):
            row = (outcomes.get((airflow, python)) for python in pythons)
            table.add_row(airflow, *(outcome.text if outcome else "" for outcome in row))
    return table


if __name__ == "__main__":
    sys.exit(main())
