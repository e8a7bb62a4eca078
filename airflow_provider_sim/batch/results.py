"""What a batch's runs have returned, in the order of its inputs.

Outputs wait in a temporary file, so that ten thousand of them need no memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from airflow_provider_sim.arguments import OnPaused
from airflow_provider_sim.batch.state import BatchState, ItemStatus
from airflow_provider_sim.client import AsyncSimClient, RunStatus, SimClient, WorkflowRun
from airflow_provider_sim.exceptions import SimOutputError, SimRunError
from airflow_provider_sim.task.output import OutputDelivery, OutputRules, as_json, write_file
from airflow_provider_sim.task.results import paused_result

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Outputs that are asked for at once."""

_NAMED = 10
"""Failures that a message names one by one."""

_STATUS = {
    ItemStatus.COMPLETED: "completed",
    ItemStatus.FAILED: "failed",
    ItemStatus.CANCELLED: "cancelled",
    ItemStatus.PAUSED: "paused",
    ItemStatus.REFUSED: "refused",
    ItemStatus.SKIPPED: "skipped",
    ItemStatus.ACTIVE: "running",
    ItemStatus.SENT: "running",
    ItemStatus.UNSENT: "not started",
}


class Results:
    """Gathers what the runs have returned.

    :param workflow_of: gives an input's workflow.
    :param client: gets outputs' files, and what paused runs ask.
    :ivar display_copies: the inputs whose outputs are Sim's display copies.
    """

    def __init__(
        self,
        journal: BatchState,
        workflow_of: Callable[[int], str],
        *,
        rules: OutputRules,
        on_paused: OnPaused,
        client: SimClient,
    ) -> None:
        self._journal = journal
        self._workflow_of = workflow_of
        self._rules = rules
        self._on_paused = on_paused
        self._client = client
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the results are needed
        self._lock = threading.Lock()  # files are saved in threads
        self._places: dict[int, tuple[int, int]] = {}
        self._bad: set[int] = set()
        self.display_copies: list[int] = []

    def close(self) -> None:
        """Forget all of it."""
        self._file.close()

    def __len__(self) -> int:
        """How many results there are so far."""
        return len(self._places)

    @property
    def bad(self) -> list[int]:
        """The inputs that have no good result."""
        return sorted(self._bad)

    # --- gathering -----------------------------------------------------------------------------------------------

    async def gather(self, client: AsyncSimClient) -> None:
        """Get the results of all runs that are over and aren't known yet.

        :raises SimError: Sim can't be asked.
        """
        waiting = (index for index, standing in self._standings() if not standing.is_open)
        missing = iter([index for index in waiting if index not in self._places])

        async def work() -> None:
            for index in missing:
                await self._get(client, index)

        workers = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            self.display_copies.sort()

    def take(self, index: int, run: WorkflowRun) -> None:
        """Take a result that came with the run itself; blocks where files are to be saved, or paused runs asked for."""
        self._deliver(index, run)

    def put(self, index: int, entry: dict[str, Any]) -> None:
        """Take a result as :meth:`entries` gives it."""
        encoded = as_json(entry)
        with self._lock:
            self._places[index] = (self._file.seek(0, 2), len(encoded))
            self._file.write(encoded)
            if "error" in entry:
                self._bad.add(index)

    def written(self, had: int) -> Iterator[bytes]:
        """All results but the first ``had``, in the order in which they came: lines for :meth:`read`."""
        for index in list(self._places)[had:]:
            yield as_json([index, self._read(index)]) + b"\n"

    def read(self, lines: Iterable[bytes]) -> None:
        """Take what :meth:`written` gave."""
        for line in lines:
            index, entry = json.loads(line)
            self.put(index, entry)

    async def _get(self, client: AsyncSimClient, index: int) -> None:
        journal, standing = self._journal, self._journal[index]
        ids = self._workflow_of(index), journal.run_id(index)
        if standing is ItemStatus.COMPLETED or standing is ItemStatus.FAILED:
            run = await client.get_workflow_result(*ids, job_id=journal.job_id(index))
        elif standing is ItemStatus.PAUSED:
            run = await client.get_workflow_run(*ids, job_id=journal.job_id(index))
        else:
            self.put(index, self._entry(index, standing))
            return
        if self._rules.folder or standing is ItemStatus.PAUSED:
            await asyncio.to_thread(self._deliver, index, run)
        else:
            self._deliver(index, run)

    def _deliver(self, index: int, run: WorkflowRun) -> None:
        """Put a run's end among the results; blocks where files are to be saved, or paused runs asked for."""
        standing = self._journal[index]
        try:
            if run.status is RunStatus.PAUSED:
                output: Any = paused_result(self._client, run, self._on_paused)
            else:
                run.raise_for_status()
                output = OutputDelivery(
                    self._rules,
                    workflow_id=self._workflow_of(index),
                    run_id=run.run_id or self._journal.run_id(index),
                    fetch=self._client.download_file,
                    level=logging.DEBUG,
                ).deliver(run.output)
        except (SimRunError, SimOutputError) as error:
            told = run.error.message if run.error else str(error)
            self.put(index, self._entry(index, standing, error=told))
        else:
            if run.output_is_display_copy:
                self.display_copies.append(index)
            self.put(index, self._entry(index, standing, output=output))

    def _entry(self, index: int, standing: ItemStatus, **more: Any) -> dict[str, Any]:
        ran = standing not in (ItemStatus.REFUSED, ItemStatus.SKIPPED)
        if not more and standing is ItemStatus.REFUSED:
            more = {"error": self._journal.why(index)}
        elif not more and standing is ItemStatus.CANCELLED:
            more = {"error": "The run was cancelled before it completed."}
        return {"status": _STATUS[standing], **more, "run_id": self._journal.run_id(index) if ran else None}

    # --- giving --------------------------------------------------------------------------------------------------

    def entries(self) -> Iterator[dict[str, Any]]:
        """Of each input in their order: ``status``, ``output`` or ``error`` where there is one, and ``run_id``."""
        for index, standing in self._standings():
            if index in self._places:
                yield self._read(index)
            else:
                yield self._entry(index, standing)

    def outputs(self) -> Iterator[Any]:
        """The output of each input, in their order; None where there is none."""
        return (entry.get("output") for entry in self.entries())

    def deliver(self, values: Callable[[], Iterable[Any]], name: str) -> Any:
        """Return values as the task's result: a list, or where it was stored if it is too large for that.

        :param values: gives them, as often as they are asked for.
        :param name: of the file, without its ending.
        :raises SimOutputError: it is too large and may not be stored, or can't be.
        """
        size, kept = 2, []
        for value in values():
            size += len(as_json(value)) + 1
            if size > self._rules.max_bytes:
                break
            kept.append(value)
        else:
            return kept
        total = len(self._journal)
        if self._rules.large != "store":
            raise SimOutputError(
                f"The results of batch {self._journal.batch_id} are larger as JSON than max_output_bytes"
                f" ({self._rules.max_bytes:,}): {len(kept)} of {total} fit. Set large_outputs='store' and"
                " output_files_dir to get the path of a file instead, let the workflow return less, or raise"
                " max_output_bytes. The runs themselves are over; clearing the task runs all of them afresh."
            )
        lines = (as_json(value) + b"\n" for value in values())
        try:
            path = write_file(self._rules.folder or "", self._journal.batch_id, f"{name}.jsonl", lines)
        except Exception as error:  # each storage has its own
            raise SimOutputError(
                f"Could not write the results of batch {self._journal.batch_id} into output_files_dir"
                f" {self._rules.folder!r}: {type(error).__name__}: {error}. The runs themselves are over."
            ) from error
        log.info("The results of batch %s are stored at %s, a line for each input.", self._journal.batch_id, path)
        return {"output_path": path, "count": total}

    def failures(self) -> str:
        """Which inputs failed, and why, in words."""
        bad = self.bad
        named = []
        for index in bad[:_NAMED]:
            entry = self._read(index)
            of = f"workflow {self._workflow_of(index)!r}"
            run = f"run {entry['run_id']!r} of {of}" if entry["run_id"] else of
            named.append(f"inputs[{index}] ({entry['status']}, {run}): {str(entry['error'])[:300].removesuffix('.')}")
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        return "; ".join(named) + more

    def _read(self, index: int) -> dict[str, Any]:
        place, length = self._places[index]
        with self._lock:
            self._file.seek(place)
            encoded = self._file.read(length)
        entry: dict[str, Any] = json.loads(encoded)
        return entry

    def _standings(self) -> Iterator[tuple[int, ItemStatus]]:
        return ((index, self._journal[index]) for index in range(len(self._journal)))
