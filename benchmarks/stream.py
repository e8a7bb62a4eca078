"""What a long stream takes of a worker's memory: through the client, and through the operator into the task log."""

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
"""In the stream that comes first, so that only what grows with the length is counted."""
SELECTED = ["Agent.content"]


class Read(NamedTuple):
    """What one stream took.

    :param grown: bytes by which the process's largest memory has grown.
    :param processor: seconds.
    :param outcome: in a few words.
    """

    grown: int
    processor: float
    outcome: str


def tell_long_stories(sim: SimEmulator) -> None:
    """Deploy a workflow whose agent streams as many chunks as its input says."""

    @sim.workflow("story", block="Agent", chunks=lambda given: (CHUNK for _ in range(given["chunks"])))
    def story(given: dict[str, Any]) -> dict[str, Any]:
        return {"content": "too long to be told twice"}


def by_client(url: str, key: str, chunks: int) -> str:
    """Take the events and let them go."""
    from airflow_provider_sim.client.sync_client import SimClient

    with SimClient(key, url) as client:
        options: dict[str, Any] = {"stream": True, "selected_outputs": SELECTED}
        with client.execute_workflow("story", {"chunks": chunks}, **options) as stream:
            count = sum(1 for _ in stream)
    return f"{count - 1:,} chunks"


def by_operator(url: str, key: str, chunks: int) -> str:
    """Let the operator write the text into the task log and return it: where it is too large, the task fails."""
    return _operate(url, key, chunks)


def by_storing_operator(url: str, key: str, chunks: int) -> str:
    """The same, and where it is too large, it is stored."""
    with TemporaryDirectory() as folder:
        return _operate(url, key, chunks, output_files_dir=f"file://{folder}", large_outputs="store")


def by_sdk(url: str, key: str, chunks: int) -> str:
    """Ask the official SDK for a stream."""
    sys.path.insert(0, str(peers.official_sdk("0.2.1")))
    from simstudio import SimStudioClient, SimStudioError

    try:
        SimStudioClient(key, url).execute_workflow(
            "story", {"chunks": chunks}, stream=True, selected_outputs=SELECTED, timeout=600
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
        task_id="tell",
        workflow_id="story",
        input={"chunks": chunks},
        stream=True,
        selected_outputs=SELECTED,
        durable=False,
        do_xcom_push=False,
        **arguments,
    )
    ti = SimpleNamespace(task_id="tell", map_index=-1, try_number=1, start_date=datetime.now(tz=UTC))
    try:
        output: Any = task.execute({"ti": ti})
    except SimOutputError as error:
        return "fails: " + str(error).partition(" is ")[2].partition(". ")[0].partition("Set ")[0]
    return f"{output['size']:,} bytes stored" if "output_path" in output else "the text"


def read(way: str, url: str, key: str, chunks: int) -> Read:
    """Read a short stream, and then a long one."""
    import airflow.sdk  # noqa: F401  it sets the logging up; what it makes of a line isn't what is to be measured

    logging.basicConfig(filename=os.devnull, level=logging.INFO, force=True)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    WAYS[way](url, key, min(FEW, chunks))
    before, began = _peak(), time.process_time()
    outcome = WAYS[way](url, key, chunks)
    return Read(_peak() - before, time.process_time() - began, outcome)


def _peak() -> int:
    """The most memory that this process has ever held, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure(*, smoke: bool = False) -> Iterator[Table]:
    """Stream from an emulator in another process, each way in a process of its own."""
    chunks = 3_000 if smoke else CHUNKS
    peers.WORK.mkdir(exist_ok=True)
    table = new_table(
        f"What does a stream of {chunks * len(CHUNK) / 1e6:,.0f} MB take of a worker?",
        "read by",
        "MB of memory, at its peak",
        "\N{MICRO SIGN}s of processor time a chunk",
        "what comes of it",
        notes=f"{chunks:,} chunks of {len(CHUNK)} bytes each; what a stream of {FEW:,} chunks takes is not counted. The"
        " operator writes each line into the task log and returns the text of the outputs that its author has selected,"
        " up to max_output_bytes, 16 MiB unless set.",
    )
    with serving(tell_long_stories) as server:
        for way in ['operator, large_outputs="store"'] if smoke else WAYS:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(read, way, server.url, server.api_key, chunks).result()
            each = found.processor / chunks * 1e6
            table.add_row(way, f"{found.grown / 1e6:.1f}", f"{each:.1f}", found.outcome)
    yield table
