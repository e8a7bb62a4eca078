"""Results of a batch, in the order of its inputs; kept in a temporary file, so that memory is no limit."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_sim.batch.reconcile import in_flight
from airflow_provider_sim.batch.state import BatchState, ItemStatus
from airflow_provider_sim.client import AsyncSimClient, RunStatus, SimClient, WorkflowRun
from airflow_provider_sim.exceptions import SimOutputError, SimRunError, SimRunNotFoundError
from airflow_provider_sim.task.output import OutputDelivery, as_json, write_file
from airflow_provider_sim.task.results import paused_result

if TYPE_CHECKING:
    from airflow_provider_sim.task.run_options import RunOptions

log = logging.getLogger(__name__)


class Results:
    """Fetches and keeps the results of finished runs.

    :param state: of the batch; may be replaced while there are no results.
    :param client: downloads files in outputs, and reads pauses.
    :ivar bad: inputs that have failed.
    :ivar display_copies: inputs whose outputs are Sim's display copies.
    """

    def __init__(self, state: BatchState, options: RunOptions, client: SimClient) -> None:
        self.state = state
        self.bad: set[int] = set()
        self.display_copies: set[int] = set()
        self._options = options
        self._client = client
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the results are needed
        self._lock = threading.Lock()  # files are saved in threads
        self._places: dict[int, tuple[int, int]] = {}
        self._stored = 0

    def close(self) -> None:
        """Delete the results."""
        self._file.close()

    async def gather(self, client: AsyncSimClient, *, active: bool = False) -> None:
        """Fetch the results of finished runs that were not fetched yet.

        :param active: also of runs that may have finished by now; updates their status.
        """

        async def fetch(index: int) -> None:
            status = self.state.statuses[index]
            if status in (ItemStatus.CANCELLED, ItemStatus.REFUSED, ItemStatus.SKIPPED):
                self._put(index, self._entry(index))
                return
            read = client.get_workflow_run if status is ItemStatus.PAUSED else client.get_workflow_result
            try:
                run = await read(self.state.workflows[index], self.state.run_id(index), job_id=self.state.job_id(index))
            except SimRunNotFoundError:
                if status is ItemStatus.ACTIVE:  # the engine decides when it is lost
                    return
                raise
            if status is ItemStatus.ACTIVE:
                if not run.status.is_terminal:
                    return
                self.state.set_status(index, ItemStatus[run.status.name])
            await asyncio.to_thread(self._add, index, run)

        wanted = [i for i, status in enumerate(self.state.statuses) if not status.is_open and i not in self._places]
        await in_flight(fetch, wanted + (self.state.indices(ItemStatus.ACTIVE) if active else []))

    def _add(self, index: int, run: WorkflowRun) -> None:
        try:
            if run.status is RunStatus.PAUSED:
                output: Any = paused_result(self._client, run, self._options.on_paused)
            else:
                run.raise_for_status()
                output = OutputDelivery(
                    self._options,
                    workflow_id=self.state.workflows[index],
                    run_id=run.run_id or self.state.run_id(index),
                    fetch=self._client.download_file,
                    level=logging.DEBUG,
                ).deliver(run.output)
        except (SimRunError, SimOutputError) as error:
            self._put(index, self._entry(index, error=run.error.message if run.error else str(error)))
        else:
            if run.output_is_display_copy:
                self.display_copies.add(index)
            self._put(index, self._entry(index, output=output))

    def _put(self, index: int, entry: dict[str, Any]) -> None:
        encoded = as_json(entry)
        with self._lock:
            self._places[index] = (self._file.seek(0, 2), len(encoded))
            self._file.write(encoded)
            if "error" in entry:
                self.bad.add(index)

    def _entry(self, index: int, **result: Any) -> dict[str, Any]:
        status = self.state.statuses[index]
        if not result and status is ItemStatus.REFUSED:
            result = {"error": self.state.reasons.get(index, "see the task log")}
        elif not result and status is ItemStatus.CANCELLED:
            result = {"error": "The run was cancelled before it completed."}
        has_run = status not in (ItemStatus.REFUSED, ItemStatus.SKIPPED)
        return {"status": status.label, **result, "run_id": self.state.run_id(index) if has_run else None}

    def _read(self, index: int) -> dict[str, Any]:
        place, length = self._places[index]
        with self._lock:
            self._file.seek(place)
            encoded = self._file.read(length)
        return dict(json.loads(encoded))

    def load(self, entries: Mapping[int, dict[str, Any]]) -> None:
        """Add results that :meth:`unstored` has yielded."""
        for index, entry in entries.items():
            self._put(index, entry)
        self._stored = len(self._places)

    def unstored(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the results, with their inputs, that were not loaded."""
        return ((index, self._read(index)) for index in list(self._places)[self._stored :])

    def _values(self, *, only_outputs: bool) -> Iterator[Any]:
        for index in range(len(self.state)):
            entry = self._read(index) if index in self._places else self._entry(index)
            yield entry.get("output") if only_outputs else entry

    def deliver(self, name: str, *, only_outputs: bool = False) -> Any:
        """Return the task's result: the entries or outputs, or the path of a file if they are too large."""
        size, result = 2, []
        for value in self._values(only_outputs=only_outputs):
            size += len(as_json(value)) + 1
            if size > self._options.max_output_bytes:
                break
            result.append(value)
        else:
            return result
        batch_id, total = self.state.batch_id, len(self.state)
        if self._options.large_outputs != "store":
            raise SimOutputError(
                f"The results of batch {batch_id} are larger as JSON than max_output_bytes"
                f" ({self._options.max_output_bytes:,}): {len(result)} of {total} fit. Set large_outputs='store' and"
                " output_files_dir to get the path of a file instead, let the workflow return less, or raise"
                " max_output_bytes. All runs have finished; clearing the task starts a new batch."
            )
        lines = (as_json(value) + b"\n" for value in self._values(only_outputs=only_outputs))
        path = write_file(self._options.output_files_dir, batch_id, f"{name}.jsonl", lines)
        log.info("The results of batch %s are stored at %s, a line for each input.", batch_id, path)
        return {"output_path": path, "count": total}

    def failures(self) -> str:
        """Return which inputs failed and why, for an error message: the first ten."""
        failures = []
        for index in sorted(self.bad)[:10]:
            entry, run = self._read(index), f"workflow {self.state.workflows[index]!r}"
            if entry["run_id"]:
                run = f"run {entry['run_id']!r} of {run}"
            reason = str(entry["error"])[:300].removesuffix(".")
            failures.append(f"inputs[{index}] ({entry['status']}, {run}): {reason}")
        more = f"; and {len(self.bad) - 10} more" if len(self.bad) > 10 else ""
        return "; ".join(failures) + more
