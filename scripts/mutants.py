"""Mutation tests of ``client`` and ``polling``.

``python -m scripts.mutants`` tests 300 mutants, which depend on the seed only, with the tests that reach the changed
function. ``--sample 50 --seed 2 polling.planner`` selects others, or those of a module, ``--survivors`` those that
survived the last time. mutmut doesn't change decorated functions (such as properties) and code outside of functions.
Code that a test module calls during its import meets no mutant.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

REPO = Path(__file__).resolve().parent.parent
HOME = REPO / ".mutants"
TREE = HOME / "tree"
"""mutmut's copy of the package and its tests."""
TOLD = HOME / "outcomes.json"
LOG = HOME / "mutmut.log"

UV = str(REPO / ".venv" / "bin" / "uv")
PYTHON = HOME / "python" / "bin" / "python"

PACKAGES = ("client", "polling")

SUITES = (
    ("tests/client", "tests/polling"),
    ("tests/hooks", "tests/operators", "tests/test_errors_page.py", "tests/test_links.py"),
)
"""Tests of the packages; then, for survivors, tests of their users."""

SLOW_TESTS = (
    "tests/client/test_any_bytes.py",
    "tests/operators/test_batch.py",
    "tests/operators/test_stateful.py",
    "tests/polling/test_any_interleaving.py",
)
"""Excluded: hypothesis, and tests that take a minute."""

TESTS_OF_NAMES = ("tests/client/test_contract.py::test_both_clients_have_the_same_public_methods",)
"""Excluded: mutmut's copies of a method are methods, too."""

SETTINGS: dict[str, Sequence[str]] = {
    "source_paths": ["airflow_provider_sim"],
    "only_mutate": [f"airflow_provider_sim/{package}/*" for package in PACKAGES],
    "also_copy": ["docs", "scripts"],
    "pytest_add_cli_args": [
        "-pno:cacheprovider",
        *(f"--ignore={path}" for path in SLOW_TESTS),
        *(f"--deselect={test}" for test in TESTS_OF_NAMES),
    ],
    "timeout_constant": ["30"],
    "timeout_multiplier": ["2"],
    "track_dependencies": ["false"],
}

OUTCOMES = ("killed", "survived", "timed out")

Mutant = dict[str, str]
"""Name, module and outcome of a mutant, and a diff if it survived."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Test a sample of mutants, print survivors and scores; return 1 if the tests fail without mutants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="client, polling.planner, client.api.v2; default: all")
    parser.add_argument("--sample", type=int, default=300, metavar="N", help="number of mutants; default: 300")
    parser.add_argument("--all", action="store_true", help="every mutant; takes hours")
    parser.add_argument("--seed", type=int, default=1, help="which sample; default: 1")
    parser.add_argument("--survivors", action="store_true", help="only survivors of the last run")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one for each processor")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    told: dict[str, Mutant] = {}
    if options.survivors:
        told = {mutant["name"]: mutant for mutant in json.loads(TOLD.read_text())}
    sample = {
        "prefixes": [f"airflow_provider_sim.{module}" for module in options.modules],
        "count": None if options.all else options.sample,
        "seed": options.seed,
    }
    _install()
    for suite in SUITES:
        survivors = [name for name, mutant in told.items() if mutant["outcome"] == "survived"]
        if told and not survivors:
            break
        outcomes = _test(suite, survivors, sample, options.processes)
        if outcomes is None:
            console.print(f"No mutant was tested; see {LOG.relative_to(REPO)}.")
            return 1
        told |= outcomes
    mutants = sorted(told.values(), key=lambda mutant: mutant["name"])
    TOLD.write_text(json.dumps(mutants, indent=1))
    for mutant in mutants:
        if mutant["outcome"] == "survived":
            console.print(f"\n{mutant['name']}", style="bold")
            console.print(mutant["change"].strip(), markup=False, soft_wrap=True)
    console.print(_table(mutants))
    return 0


def _test(suite: Sequence[str], names: list[str], sample: dict[str, Any], processes: int) -> dict[str, Mutant] | None:
    """Run a suite against mutants, by default a sample; return None if it fails without mutants."""
    _copy(suite)
    told = HOME / "suite.json"
    told.unlink(missing_ok=True)
    with LOG.open("wb") as log:
        subprocess.run(
            (str(PYTHON), str(REPO / "scripts" / "mutants_worker.py")),
            input=json.dumps(
                {"names": names, "sample": sample, "processes": processes, "results": str(told)},
            ).encode(),
            cwd=TREE,
            env=_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return {mutant["name"]: mutant for mutant in json.loads(told.read_text())} if told.exists() else None


def _install() -> None:
    """Create the locked environment with mutmut."""
    done = HOME / "python" / ".installed"
    lock = REPO / "requirements-dev.lock"
    if done.exists() and done.stat().st_mtime > lock.stat().st_mtime:
        return
    into = ("--quiet", "--python", str(PYTHON))
    for command in (
        ("venv", "--quiet", "--clear", "--python", sys.executable, str(HOME / "python")),
        ("pip", "sync", *into, "--require-hashes", str(lock)),
        (
            "pip",
            "install",
            *into,
            "--require-hashes",
            "--requirements",
            str(REPO / "scripts" / "requirements-mutants.txt"),
        ),
        ("pip", "install", *into, "--no-deps", "--no-build-isolation", "--editable", "."),
    ):
        subprocess.run((UV, *command), cwd=REPO, check=True)
    done.touch()


def _copy(suite: Sequence[str]) -> None:
    """Recreate mutmut's copy."""
    shutil.rmtree(TREE, ignore_errors=True)
    for folder in ("airflow_provider_sim", "docs", "scripts", "tests"):
        shutil.copytree(REPO / folder, TREE / folder, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
    shutil.copy2(REPO / "pyproject.toml", TREE)
    (TREE / "mutants").mkdir()  # Python checks only once whether a directory of its path exists
    settings = SETTINGS | {"pytest_add_cli_args_test_selection": suite}
    lines = [f"{name} = {joined}" for name, values in settings.items() for joined in ["\n    ".join(values)]]
    (TREE / "setup.cfg").write_text("\n".join(("[mutmut]", *lines, "")))


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    recordings = environment.get("SIM_RECORDINGS") or str(REPO.parent / "shared" / "recordings")
    return environment | {
        "AIRFLOW_HOME": str(HOME / "airflow"),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(TREE / "mutants"),
        "SIM_RECORDINGS": recordings,
    }


def _table(mutants: list[Mutant]) -> Table:
    table = Table("Module", "Mutants", *(outcome.capitalize() for outcome in OUTCOMES), "Score", box=box.MARKDOWN)
    modules = sorted({mutant["module"] for mutant in mutants})
    for module in modules:
        _add(table, module, [mutant for mutant in mutants if mutant["module"] == module])
    for package in PACKAGES:
        _add(table, f"all of {package}", [mutant for mutant in mutants if mutant["module"].startswith(package)])
    _add(table, "all", mutants)
    return table


def _add(table: Table, name: str, mutants: list[Mutant]) -> None:
    if mutants:
        counts = Counter(mutant["outcome"] for mutant in mutants)
        score = 1 - counts["survived"] / len(mutants)
        table.add_row(name, str(len(mutants)), *(str(counts[outcome]) for outcome in OUTCOMES), f"{score:.1%}")


if __name__ == "__main__":
    sys.exit(main())
