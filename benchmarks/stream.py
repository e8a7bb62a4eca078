"""Memory and CPU time of a long stream, with the client, the operator and the official SDK."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

from airflow_provider_sim.emulator import SimEmulator
from benchmarks import peers
from benchmarks.serving import serving
from benchmarks.table import Table, new_table

CHUNKS, CHUNK = 1_000_000, "x" * 99 + "\n"
FEW = 2_000
"""Chunks of a first stream, so that only the growth with the length is measured."""
SELECTED = ["Agent.content"]


class Read(NamedTuple):
    """Cost of one stream.

    :param grown: growth of the process's peak memory in bytes.
    :param processor: CPU seconds.
    """

    grown: int
    processor: float
    outcome: str


def deploy_streaming_workflow(sim: SimEmulator) -> None:
    """Deploy a workflow that streams the number of chunks in its input."""

    @sim.workflow("long_stream", block="Agent", chunks=lambda given: [CHUNK] * given["chunks"])
    def long_stream(given: dict[str, Any]) -> dict[str, Any]:
        return {"content": "not streamed again"}


def by_client(url: str, key: str, chunks: int) -> str:
    """Read the events with the client and discard them."""
    from airflow_provider_sim.client.sync_client import SimClient

    with SimClient(key, url) as client:
        options: dict[str, Any] = {"stream": True, "selected_outputs": SELECTED}
        with client.execute_workflow("long_stream", {"chunks": chunks}, **options) as stream:
            count = sum(1 for _ in stream)
    return f"{count - 1:,} chunks"


def by_operator(url: str, key: str, chunks: int) -> str:
    """Run the operator; a too large output fails the task."""
    return _operate(url, key, chunks)


def by_storing_operator(url: str, key: str, chunks: int) -> str:
    """Run the operator; a too large output is stored in a file."""
    with TemporaryDirectory() as folder:
        return _operate(url, key, chunks, output_files_dir=f"file://{folder}", large_outputs="store")


def by_sdk(url: str, key: str, chunks: int) -> str:
    """Stream with the official SDK."""
    sys.path.insert(0, str(peers.official_sdk("0.2.1")))
    from simstudio import SimStudioClient, SimStudioError

    try:
        SimStudioClient(key, url).execute_workflow(
            "long_stream", {"chunks": chunks}, stream=True, selected_outputs=SELECTED, timeout=600
        )
    except SimStudioError as error:
        return f"fails: {str(error).partition(':')[0]}"
    return "a result"


WAYS: dict[str, Callable[[str, str, int], str]] = {
    "client": by_client,
    "operator": by_operator,
    'operator, large_outputs="store"': by_storing_operator,
    "SDK 0.2.1": by_sdk,
}


def _operate(url: str, key: str, chunks: int, **arguments: Any) -> str:
    from airflow_provider_sim.exceptions import SimOutputError
    from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

    os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = json.dumps({"conn_type": "sim", "host": url, "password": key})
    task = SimExecuteWorkflowOperator(
        task_id="stream",
        workflow_id="long_stream",
        input={"chunks": chunks},
        stream=True,
        selected_outputs=SELECTED,
        durable=False,
        do_xcom_push=False,
        **arguments,
    )
    ti = SimpleNamespace(task_id="stream", map_index=-1, try_number=1, start_date=datetime.now(tz=UTC))
    try:
        output: Any = task.execute({"ti": ti})
    except SimOutputError as error:
        return "fails: " + str(error).partition(" is ")[2].partition(". ")[0].partition("Set ")[0]
    return f"{output['size']:,} bytes stored" if "output_path" in output else "the text"


def read(way: str, url: str, key: str, chunks: int) -> Read:
    """Read a short stream, then a long one; measure the long one."""
    import airflow.sdk  # noqa: F401  it configures logging, whose cost isn't measured

    logging.basicConfig(filename=os.devnull, level=logging.INFO, force=True)
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())
    WAYS[way](url, key, min(FEW, chunks))
    before, began = _peak(), time.process_time()
    outcome = WAYS[way](url, key, chunks)
    return Read(_peak() - before, time.process_time() - began, outcome)


def _peak() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure(*, smoke: bool = False) -> Iterator[Table]:
    """Stream from an emulator in another process, with a new process for each client."""
    chunks = 3_000 if smoke else CHUNKS
    peers.WORK.mkdir(exist_ok=True)
    table = new_table(
        f"What does a stream of {chunks * len(CHUNK) / 1e6:,.0f} MB cost a worker?",
        "read by",
        "MB of peak memory",
        "\N{MICRO SIGN}s of CPU time per chunk",
        "outcome",
        notes=f"{chunks:,} chunks of {len(CHUNK)} bytes; the cost of a stream of {FEW:,} chunks is subtracted. "
        "The operator writes each line into the task log and returns the selected outputs, up to "
        "max_output_bytes (default 16 MiB).",
    )
    with serving(deploy_streaming_workflow) as server:
        for way in ['operator, large_outputs="store"'] if smoke else WAYS:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(read, way, server.url, server.api_key, chunks).result()
            each = found.processor / chunks * 1e6
            table.add_row(way, f"{found.grown / 1e6:.1f}", f"{each:.1f}", found.outcome)
    yield table
