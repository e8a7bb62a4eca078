"""The measurement of the emulator's capacity runs; what it finds is nobody's promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]


def test_it_measures():
    command = [sys.executable, "-m", "benchmarks.emulator_capacity", "--runs", "40"]
    ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "v2: list the newest 1000 of 90 runs" in ran.stdout
