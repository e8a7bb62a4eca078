"""SimRunEventTrigger on a real Airflow, whose triggerer is killed. ``make chaos-events`` runs a longer trial."""

from __future__ import annotations

import random

import pytest

from scripts.event_trials import kill_among
from tests.versions import needs_airflow

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


@needs_airflow("3.0", "asset watchers")
def test_dag_runs_receive_all_runs_that_finish_together(tmp_path):
    report = kill_among(tmp_path / "home", runs=60, kills=0, chance=random.Random(7))
    assert (report.seen, report.missed, report.repeated) == (60, 0, 0)
    assert report.longest < 60


@pytest.mark.nightly
@needs_airflow("3.3", "the state store of assets")
def test_dag_runs_receive_all_runs_despite_triggerer_kills(tmp_path):
    report = kill_among(tmp_path / "home", runs=60, kills=2, chance=random.Random(7))
    assert (report.seen, report.missed) == (60, 0)
