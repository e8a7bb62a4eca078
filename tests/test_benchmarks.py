"""How benchmarks are found and written down. That they run, ``make bench-small`` shows; what they find is nobody's
promise, but for what the tests of the watch count exactly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import all_benchmarks, with_section
from tests.versions import needs_airflow


def test_all_questions_have_an_answer():
    assert {"batch", "client", "emulator_capacity", "gating", "imports", "stream", "watching"} <= set(all_benchmarks())


@pytest.mark.slow
@needs_airflow("3.0", "the SDK that is measured beside")
def test_importing_loads_no_http_library(tmp_path):
    """Operators and sensors: counted, not timed."""
    from benchmarks.imports import IMPORTS, OURS, probe

    probed = probe(Path(sys.executable), IMPORTS[OURS], tmp_path)
    assert probed.heavy() == "none"
    assert len(probed.new) <= 24


def test_a_section_of_the_page_is_written_anew_alone():
    page = with_section("# Page\n", "one", "first")
    page = with_section(page, "two", "second")
    assert with_section(page, "one", "third\\1") == (
        "# Page\n\n<!-- one -->\n\nthird\\1\n\n<!-- /one -->\n\n<!-- two -->\n\nsecond\n\n<!-- /two -->\n"
    )
