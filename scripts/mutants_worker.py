"""Part of ``scripts.mutants`` that runs in mutmut's environment: choose mutants, test them, report."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutmut.__main__ import collect_or_load_stats, create_mutants, estimated_worst_case_time
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths, walk_mutatable_files
from mutmut.utils.format_utils import mangled_name_from_mutant_name
from mutmut.workers.isolation import MutantRunner, get_mutant_runner

OUTCOMES = {"survived": "survived", "no tests": "survived", "timeout": "timed out", "segfault": "timed out"}
"""Names of mutmut's outcomes; all others are kills. A segfault is mostly a mutant that exceeded its CPU time."""


def main() -> None:
    """Test the mutants that stdin requests, and write the results."""
    asked = json.load(sys.stdin)
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    set_mutant_under_test("mutant_generation")
    create_mutants(asked["processes"])
    paths = dict(_mutants())
    names = asked["names"] or _sample(list(paths), **asked["sample"])
    names = [name for name in names if name in paths]
    runner = get_mutant_runner(asked["processes"])
    collect_or_load_stats(runner)  # runs all tests once, and exits if one fails
    set_mutant_under_test("")
    results = []
    for number, (name, outcome) in enumerate(_outcomes(runner, names), 1):
        print(f"{number} of {len(names)}: {name} {outcome}", file=sys.stderr, flush=True)
        module = ".".join(paths[name].with_suffix("").parts[1:])
        change = get_diff_for_mutant(name, path=paths[name]) if outcome == "survived" else ""
        results.append({"name": name, "module": module, "outcome": outcome, "change": change})
    Path(asked["results"]).write_text(json.dumps(results))


def _mutants() -> Iterator[tuple[str, Path]]:
    """Yield every mutant by name, with its file."""
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        for name in data.exit_code_by_key:
            yield name, path


def _sample(names: list[str], *, prefixes: list[str], count: int | None, seed: int) -> list[str]:
    """Return a sample of mutants; changing one function doesn't change the sample of others."""
    wanted = [name for name in names if not prefixes or name.startswith(tuple(f"{prefix}." for prefix in prefixes))]
    return sorted(wanted, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())[:count]


def _outcomes(runner: MutantRunner, names: list[str]) -> Iterator[tuple[str, str]]:
    """Test each mutant in a separate process, the fastest first."""
    runner.startup()
    for name in sorted(names, key=estimated_worst_case_time):
        tests = sorted(state().tests_by_mangled_function_name.get(mangled_name_from_mutant_name(name), ()))
        seconds = estimated_worst_case_time(name)
        while not runner.has_capacity():
            yield _outcome(runner)
        processor_time = math.ceil((seconds + config().timeout_constant) * config().timeout_multiplier)
        runner.submit(name, tests, processor_time, seconds)
    while runner.pending_count():
        yield _outcome(runner)
    runner.shutdown()


def _outcome(runner: MutantRunner) -> tuple[str, str]:
    result: Any = runner.wait_for_result()
    return result.mutant_name, OUTCOMES.get(status_by_exit_code[result.exit_code], "killed")


if __name__ == "__main__":
    main()
