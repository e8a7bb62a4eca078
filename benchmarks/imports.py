"""What the first lines of a DAG file cost, in each process that parses it or runs one of its tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import peers
from benchmarks.table import Table, new_table, ratio

OURS = "airflow-provider-sim"
IMPORTS = {
    OURS: """
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor
""",
    "apache-airflow-providers-http": """
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
""",
    "apache-airflow-providers-dbt-cloud": """
from airflow.providers.dbt.cloud.operators.dbt import DbtCloudRunJobOperator
from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor
""",
    "apache-airflow-providers-databricks": """
from airflow.providers.databricks.operators.databricks import DatabricksRunNowOperator
from airflow.providers.databricks.sensors.databricks import DatabricksSQLStatementsSensor
""",
    "apache-airflow-providers-airbyte": """
from airflow.providers.airbyte.operators.airbyte import AirbyteTriggerSyncOperator
from airflow.providers.airbyte.sensors.airbyte import AirbyteJobSensor
""",
    "apache-airflow-providers-openai": """
from airflow.providers.openai.operators.agent import OpenAIAgentSessionOperator
from airflow.providers.openai.operators.openai import OpenAIResponseOperator
""",
}
HEAVY = ("requests", "httpx", "tenacity")
ROUNDS = 7

_PROBE = """
import json, sys, time
before = time.process_time()
from airflow.sdk import DAG, dag, task
floor, had = time.process_time() - before, set(sys.modules)
before = time.process_time()
exec(sys.argv[1])
spent = time.process_time() - before
print(json.dumps({"floor": floor, "had": sorted(had), "spent": spent, "new": sorted(set(sys.modules) - had)}))
"""


class Import(NamedTuple):
    """What imports took in one fresh interpreter.

    :param floor: seconds of the processor for ``airflow.sdk``.
    :param spent: for the imports after it.
    """

    floor: float
    had: frozenset[str]
    spent: float
    new: frozenset[str]

    def heavy(self) -> str:
        """Which of the libraries they have loaded."""
        return ", ".join(name for name in HEAVY if name in self.new) or "none"


def probe(python: Path, lines: str, home: Path) -> Import:
    """Import in a fresh interpreter, after ``airflow.sdk``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PYTHON"))}
    ran = subprocess.run(
        [python, "-c", _PROBE, lines],
        env={**kept, "AIRFLOW_HOME": str(home), "PYTHONPATH": str(peers.REPO)},
        check=True,
        capture_output=True,
        text=True,
    )
    told: Mapping[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return Import(told["floor"], frozenset(told["had"]), told["spent"], frozenset(told["new"]))


def measure(*, smoke: bool = False) -> Iterator[Table]:
    """Import in fresh interpreters, in turns; the first ones, which compile, don't count."""
    peers.WORK.mkdir(exist_ok=True)
    python = Path(sys.executable) if smoke else peers.other_providers()
    names = [OURS] if smoke else list(IMPORTS)
    rounds = 1 if smoke else ROUNDS
    found: dict[str, list[Import]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            probed = probe(python, IMPORTS[name], peers.WORK / "airflow")
            if turn:
                found[name].append(probed)
    spent = {name: median(probed.spent for probed in found[name]) * 1000 for name in names}
    floor = median(probed.floor for name in names for probed in found[name]) * 1000
    had = found[OURS][0].had
    loaded = [name for name in HEAVY if name in had]
    table = new_table(
        "What does a DAG file pay for importing operators and sensors?",
        "imported",
        "ms of processor time",
        "times ours",
        "modules",
        f"of {', '.join(HEAVY)}",
        notes=f"Fresh interpreters in turns, the median of {rounds}: first `from airflow.sdk import DAG, dag, task`,"
        " then an operator and a sensor of one provider (two operators where it has no sensor), all installed side"
        " by side. What is counted is what comes on top of the first.",
    )
    table.add_row("airflow.sdk alone", f"{floor:.0f}", "", f"{len(had):,}", ", ".join(loaded))
    for name in names:
        probed = found[name][0]
        times = ratio(spent[name], spent[OURS])
        table.add_row(name, f"{spent[name]:.1f}", times, str(len(probed.new)), probed.heavy())
    yield table
