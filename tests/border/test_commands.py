"""``airflow tasks test`` and ``airflow tasks render`` in each mode."""

import json
import os
import subprocess
import sys

import pytest
from packaging.version import Version

from airflow_provider_sim.client.sync_client import SimClient
from tests.border.conftest import HEADER
from tests.versions import AIRFLOW

pytestmark = pytest.mark.airflow

DAG = """
modes = {
    "sync": {},
    "streamed": {"stream": True},
    "asynchronous": {"async_execution": True},
    "deferrable": {"deferrable": True},
    "ends_in_trigger": {"deferrable": True, "end_from_trigger": True},
}
sensor_modes = {
    "poke": {},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
    "starts_in_trigger": {"start_from_trigger": True, "end_from_trigger": True},
}
with DAG("d", schedule=None):
    for name, mode in modes.items():
        Op(task_id=name, workflow_id="brief", input={"at": "{{ ds }}"}, poll_interval=1, **mode)
    for name, mode in sensor_modes.items():
        Sensor(task_id=f"sensor_{name}", workflow_id="brief", run_id="known", poke_interval=1, **mode)
    Batch(task_id="batch", workflow_id="brief", inputs=[{"at": "{{ ds }}"}], poll_interval=1)
    Batch(task_id="batch_deferrable", workflow_id="brief", inputs=[{}, {}], poll_interval=1, deferrable=True)
"""
OPERATORS = ("sync", "streamed", "asynchronous", "deferrable", "ends_in_trigger")
SENSORS = ("sensor_poke", "sensor_reschedule", "sensor_deferrable", "sensor_starts_in_trigger")
BATCHES = ("batch", "batch_deferrable")
COMMANDS = """
import json, sys, traceback
from airflow.cli.cli_parser import get_parser
ended = {}
for words in json.loads(sys.argv[1]):
    try:
        arguments = get_parser().parse_args(words)
        arguments.func(arguments)
        ended[" ".join(words[1:4:2])] = None
    except BaseException as error:
        traceback.print_exc()
        ended[" ".join(words[1:4:2])] = f"{type(error).__name__}: {error}"
print("ENDED", json.dumps(ended), flush=True)
"""


@pytest.mark.skipif(
    Version("3") <= AIRFLOW < Version("3.3"),
    reason="airflow tasks test of Airflow 3.0 to 3.2 starts an API server for each task and does not wait for it",
)
def test_airflow_commands_test_and_render_every_mode(new_home, tmp_path, sim):
    sim.workflow("brief", duration=0.5, inputs={"at": "string"})(lambda given: {"at": given.get("at")})
    with SimClient(sim.api_key, base_url=sim.url) as client:
        client.execute_workflow("brief", {}, async_execution=True, run_id="known")
    folder, home = tmp_path / "dags", new_home(tmp_path.name)
    folder.mkdir()
    (folder / "d.py").write_text(HEADER + DAG)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SIM_"))}
    environment = kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_SIM_DEFAULT": sim.connection(),
    }
    tasks = (*OPERATORS, *SENSORS, *BATCHES)
    words = [["tasks", command, "d", task, "2026-01-01"] for task in tasks for command in ("render", "test")]
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    log = f"{ran.stdout}\n{ran.stderr}"
    [told] = [line for line in ran.stdout.splitlines() if line.startswith("ENDED")]
    ended = json.loads(told.removeprefix("ENDED"))
    assert ended == dict.fromkeys(ended), log[-20_000:]
    assert log.count("2026-01-01") > len(OPERATORS), "rendered"
    assert [run.status for run in sim.runs] == ["completed"] * (1 + len(OPERATORS) + 1 + 2), log[-20_000:]
