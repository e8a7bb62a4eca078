"""Cost of importing the provider in a DAG file, for each process that parses the file or runs one of its tasks."""

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
    """Cost of imports in a new interpreter.

    :param floor: CPU seconds for ``airflow.sdk``.
    :param spent: CPU seconds for the imports after it.
    """

    floor: float
    had: frozenset[str]
    spent: float
    new: frozenset[str]

    def heavy(self) -> str:
        """Names of the heavy libraries that were loaded."""
        return ", ".join(name for name in HEAVY if name in self.new) or "none"


def probe(python: Path, lines: str, home: Path) -> Import:
    """Import in a new interpreter, after ``airflow.sdk``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PYTHON"))}
    ran = subprocess.run(
        [python, "-c", _PROBE, lines],
        env={**kept, "AIRFLOW_HOME": str(home), "PYTHONPATH": str(peers.REPO)},
        check=True,
        capture_output=True,
        text=True,
    )
    result: Mapping[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return Import(result["floor"], frozenset(result["had"]), result["spent"], frozenset(result["new"]))


def measure(*, smoke: bool = False) -> Iterator[Table]:
    """Import in new interpreters, in turns; the first turn, which compiles, is discarded."""
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
        "How long does a DAG file take to import operators and sensors?",
        "imported",
        "ms of CPU time",
        "ratio to this provider",
        "modules",
        f"of {', '.join(HEAVY)}",
        notes=f"New interpreters in turns, median of {rounds}: first `from airflow.sdk import DAG, dag, task`, "
        "then an operator and a sensor of one provider (two operators if it has no sensor). All are "
        "installed in one environment. CPU time and modules of the first import are subtracted.",
    )
    table.add_row("airflow.sdk alone", f"{floor:.0f}", "", f"{len(had):,}", ", ".join(loaded))
    for name in names:
        probed = found[name][0]
        times = ratio(spent[name], spent[OURS])
        table.add_row(name, f"{spent[name]:.1f}", times, str(len(probed.new)), probed.heavy())
    yield table
