"""Options of a task's runs on their way to the triggerer."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.task.run_options import RunOptions


def test_options_survive_json():
    options = RunOptions(
        sim_conn_id="sim_other", deadline=1e9, on_paused="fail", selected_outputs=["a.b"], max_output_bytes=5
    )
    assert RunOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_defaults_are_not_serialized():
    assert RunOptions().to_dict() == {}
    assert RunOptions(poll_interval=2).to_dict() == {"poll_interval": 2}


def test_arguments_become_plain_json():
    task = SimpleNamespace(
        run_timeout=timedelta(minutes=2), selected_outputs=("a", "b"), output_files_dir=Path("/out"), durable=1, other=2
    )
    options = RunOptions.of(task, poll_interval=3.0)
    assert json.loads(json.dumps(options.to_dict())) == {
        "run_timeout": 120,
        "selected_outputs": ["a", "b"],
        "output_files_dir": "/out",
        "poll_interval": 3.0,
    }


def test_unknown_option_is_an_error():
    with pytest.raises(SimError, match=r"Unknown options .*later, new"):
        RunOptions.from_dict({"new": 1, "later": 2, "durable": True})
