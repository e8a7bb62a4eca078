"""Results of a batch, in the order of its inputs; kept in temporary files, not in memory."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Fetches and keeps the results of finished runs."""

    def __init__(self, state: BatchState, options: RunOptions, client: SimClient) -> None:
        self.state = state  # may be replaced until there are results
        self.display_copies: set[int] = set()  # inputs whose outputs are Sim's display copies
        self.files = tempfile.TemporaryDirectory(prefix="sim-batch-")  # a file for each result
        self._options = options
        self._client = client  # downloads files in outputs, and reads pauses
        self._fetched: dict[int, Path] = {}
        self._errors: set[int] = set()
        self._stored = 0

    async def gather(self, client: AsyncSimClient, *, active: bool = False) -> None:
        """Fetch further results of finished runs; with ``active``, also of runs that may have finished by now."""

        async def fetch(index: int) -> None:
            status = self.state.statuses[index]
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

        fetched = (ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.PAUSED, *([ItemStatus.ACTIVE] if active else []))
        await in_flight(fetch, [index for index in self.state.indices(*fetched) if index not in self._fetched])

    def _add(self, index: int, run: WorkflowRun) -> None:
        try:
            if run.status is RunStatus.PAUSED:
                output: Any = paused_result(self._client, run, self._options.on_paused)
            else:
                run.raise_for_status()
                run_id, fetch = run.run_id or self.state.run_id(index), self._client.download_file
                delivery = OutputDelivery(self._options, self.state.workflows[index], run_id, fetch)
                output = delivery.deliver(run.output)
        except (SimRunError, SimOutputError) as error:
            self._put(index, error=run.error.message if run.error else str(error))
        else:
            if run.output_is_display_copy:
                self.display_copies.add(index)
            self._put(index, output=output)

    def _put(self, index: int, **result: Any) -> None:
        path = Path(self.files.name, str(index))
        path.write_bytes(as_json(self._entry(index) | result))
        self._fetched[index] = path
        if "error" in result:
            self._errors.add(index)

    def _entry(self, index: int) -> dict[str, Any]:
        if index in self._fetched:
            return dict(json.loads(self._fetched[index].read_bytes()))
        status = self.state.statuses[index]
        has_run = status not in (ItemStatus.REFUSED, ItemStatus.SKIPPED)
        entry = {"status": status.label, "run_id": self.state.run_id(index) if has_run else None}
        if status is ItemStatus.REFUSED:
            entry["error"] = self.state.reasons.get(index, "see the task log")
        elif status is ItemStatus.CANCELLED:
            entry["error"] = "The run was cancelled before it completed."
        return entry

    def load(self, entries: Mapping[int, dict[str, Any]]) -> None:
        """Add results that :meth:`unstored` has yielded."""
        for index, entry in entries.items():
            self._put(index, **entry)
        self._stored = len(self._fetched)

    def unstored(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the results, with their inputs, that were not loaded."""
        return ((index, self._entry(index)) for index in list(self._fetched)[self._stored :])

    def deliver(self, name: str, *, only_outputs: bool = False) -> Any:
        """Return the task's result: the entries or outputs, or the path of a file if they are too large."""

        def values() -> Iterator[Any]:
            entries = map(self._entry, range(total))
            return (entry.get("output") if only_outputs else entry for entry in entries)

        batch_id, total, size, result = self.state.batch_id, len(self.state), 2, []
        for value in values():
            size += len(as_json(value)) + 1
            if size > self._options.max_output_bytes:
                break
            result.append(value)
        else:
            return result
        if self._options.large_outputs != "store":
            raise SimOutputError(
                f"The results of batch {batch_id} are larger as JSON than max_output_bytes"
                f" ({self._options.max_output_bytes:,}): {len(result)} of {total} fit. Set large_outputs='store' and"
                " output_files_dir to get the path of a file instead, or raise max_output_bytes."
            )
        lines = (as_json(value) + b"\n" for value in values())
        path = write_file(self._options.output_files_dir, batch_id, f"{name}.jsonl", lines)
        log.info("The results of batch %s are stored at %s, a line for each input.", batch_id, path)
        return {"output_path": path, "count": total}

    @property
    def bad(self) -> list[int]:
        return sorted({*self._errors, *self.state.indices(ItemStatus.REFUSED, ItemStatus.CANCELLED)})

    def failures(self) -> str:
        """Return which inputs failed and why, for an error message: the first ten."""
        failures, bad = [], self.bad
        for index in bad[:10]:
            entry, run = self._entry(index), f"workflow {self.state.workflows[index]!r}"
            if entry["run_id"]:
                run = f"run {entry['run_id']!r} of {run}"
            reason = str(entry["error"])[:300].removesuffix(".")
            failures.append(f"inputs[{index}] ({entry['status']}, {run}): {reason}")
        return "; ".join(failures + ([f"and {len(bad) - 10} more"] if len(bad) > 10 else []))
