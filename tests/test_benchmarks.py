"""Discovery and output of benchmarks. ``make bench-small`` runs them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import all_benchmarks, with_section
from tests.versions import needs_airflow


def test_all_benchmarks_are_found():
    assert {"batch", "client", "emulator_capacity", "gating", "imports", "polling", "stream"} <= set(all_benchmarks())


@pytest.mark.slow
@needs_airflow("3.0", "airflow.sdk")
def test_importing_loads_no_http_library(tmp_path):
    """Count the modules that operators and sensors import."""
    from benchmarks.imports import IMPORTS, OURS, probe

    probed = probe(Path(sys.executable), IMPORTS[OURS], tmp_path)
    assert probed.heavy() == "none"
    assert len(probed.new) <= 26


def test_with_section_replaces_one_section():
    page = with_section("# Page\n", "one", "first")
    page = with_section(page, "two", "second")
    assert with_section(page, "one", "third\\1") == (
        "# Page\n\n<!-- one -->\n\nthird\\1\n\n<!-- /one -->\n\n<!-- two -->\n\nsecond\n\n<!-- /two -->\n"
    )
