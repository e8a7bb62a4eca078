"""The benchmarks run; what they find is nobody's promise, but for what the tests of the watch count exactly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import all_benchmarks, with_section

REPO = Path(__file__).parents[1]
NAMES = [
    pytest.param(name, marks=[pytest.mark.airflow] if hasattr(module, "REAL_AIRFLOW") else [])
    for name, module in all_benchmarks().items()
]


@pytest.mark.parametrize("name", NAMES)
def test_it_measures(name):
    command = [sys.executable, "-m", "benchmarks", name, "--smoke"]
    ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "cores" in ran.stdout.splitlines()[-2]


def test_all_questions_have_an_answer():
    assert {"client", "emulator_capacity", "gating", "imports", "stream", "watching"} <= set(all_benchmarks())


def test_importing_loads_no_http_library(tmp_path):
    """Operators and sensors: counted, not timed."""
    from benchmarks.imports import IMPORTS, OURS, probe

    probed = probe(Path(sys.executable), IMPORTS[OURS], tmp_path)
    assert probed.heavy() == "none"
    assert len(probed.new) <= 20


def test_a_section_of_the_page_is_written_anew_alone():
    page = with_section("# Page\n", "one", "first")
    page = with_section(page, "two", "second")
    assert with_section(page, "one", "third\\1") == (
        "# Page\n\n<!-- one -->\n\nthird\\1\n\n<!-- /one -->\n\n<!-- two -->\n\nsecond\n\n<!-- /two -->\n"
    )
