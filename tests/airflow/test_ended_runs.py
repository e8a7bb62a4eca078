"""A real Airflow whose triggerer is killed while runs end: one event for each. ``make chaos-events`` does it longer."""

from __future__ import annotations

import random

import pytest

from scripts.event_trials import kill_among

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


def test_events_are_runs(tmp_path):
    report = kill_among(tmp_path / "home", runs=60, kills=2, asks_airflow=True, chance=random.Random(7))
    assert (report.runs, report.events, report.missed, report.doubled) == (60, 60, 0, 0)
