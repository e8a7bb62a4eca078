"""The lifecycle of a run, computed from the clock whenever it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.display import with_large_values_referred
from airflow_provider_sim.emulator.files import Files
from airflow_provider_sim.emulator.workflows import (
    BlockError,
    Pausing,
    ResponseBlock,
    Workflow,
    at_path,
    new_id,
    new_name,
)

JOB_RETENTION = 24 * 3600.0
STALE_AFTER = 10085 * 60.0
"""Seconds: the longest time limit of a plan plus five minutes; Sim's cleanup fails older unfinished runs."""
COST = 0.005
"""US dollars; the base price of every run."""


@dataclass(slots=True, eq=False)
class Run:
    """One run of one workflow."""

    run_id: str
    workflow: Workflow
    input: dict[str, Any]  # the Start block's output
    mode: str  # sync, async or stream
    user_id: str
    now: Callable[[], float]
    created_at: float
    queued_for: float = 0.0  # seconds in the queue
    timeout: float = float("inf")  # seconds after which the server stops it
    trigger: str = "api"
    refused: str | None = None  # the message with which the start was refused; the run ID is used up
    context_id: str = field(default_factory=new_id)
    request_id: str = field(default_factory=lambda: new_name(8))
    stuck: bool = False  # its server process died: it does not finish unless it is cleaned up or cancelled
    failing: BlockError | None = None  # the error with which it fails, whatever its workflow does
    hidden_polls: int = 0  # how many polls do not find it
    hidden_seconds: float = 0.0  # for how long at least no poll finds it
    files: Files | None = None  # of all workspaces; it reads those of workspace_id
    workspace_id: str = ""
    swept_at: float | None = None
    cancelled_at: float | None = None
    resumed_at: float | None = None
    _outcome: Any = None
    _decided: bool = False
    _resume_input: Any = None
    _final_status: str | None = None

    @property
    def workflow_id(self) -> str:
        return self.workflow.workflow_id

    @property
    def started_at(self) -> float:
        return self.created_at + self.queued_for

    @property
    def first_leg_ends_at(self) -> float:
        """Time at which it finishes or pauses unless it is cancelled."""
        if self.stuck:
            return float("inf")
        if self.refused is not None:
            return self.started_at
        return self.started_at + min(self._seconds, self.timeout)

    @property
    def outcome(self) -> Any:
        """Result of the workflow's function: an output, a ResponseBlock, a Pausing or a BlockError."""
        if not self._decided:
            self._decided = True
            try:
                self._outcome = self.failing or self.workflow.body(self._input_with_files())
            except BlockError as error:
                self._outcome = error
        return self._outcome

    def _input_with_files(self) -> dict[str, Any]:
        """Return the input as the blocks see it: a file that was deleted before the end is a reference only."""
        if self.files is None:
            return self.input
        fields = [name for name, kind in (self.workflow.inputs or {}).items() if kind == "file[]"]
        return self.files.filled(self.input, fields, self.workspace_id, self.first_leg_ends_at)

    @property
    def status(self) -> str:
        if self.refused is not None:
            return "failed"
        if self.cancelled_at is not None:
            return "cancelled"
        if self.swept_at is not None:
            return "failed"
        if self._final_status is not None and not self.stuck:
            return self._final_status
        now = self.now()
        if now < self.started_at:
            return "queued"
        if now < self.first_leg_ends_at:
            return "running"
        if self.timed_out or isinstance(self.outcome, BlockError):
            self._final_status = "failed"
        elif self.is_paused:
            return "paused"
        else:
            self._final_status = "completed"
        return self._final_status

    @property
    def timed_out(self) -> bool:
        return self.refused is None and self.swept_at is None and self._seconds > self.timeout

    @property
    def _seconds(self) -> float:
        return self.workflow.seconds(self.input, streamed=self.mode == "stream")

    @property
    def resumes_at(self) -> float | None:
        pausing = self.outcome
        if isinstance(pausing, Pausing) and pausing.seconds is not None:
            return self.first_leg_ends_at + pausing.seconds
        return None

    @property
    def is_paused(self) -> bool:
        """Whether it is paused, provided that it reached its pause."""
        if not isinstance(self.outcome, Pausing):
            return False
        ends_at = self.resumes_at if self.resumed_at is None else self.resumed_at
        return ends_at is None or self.now() < ends_at

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    @property
    def ended_at(self) -> float | None:
        """Time at which it finished or paused."""
        stopped_at = self.swept_at if self.cancelled_at is None else self.cancelled_at
        if stopped_at is not None:
            return stopped_at
        status = self.status
        if status in ("queued", "running"):
            return None
        return self.first_leg_ends_at if status == "paused" else self.resumed_at or self.first_leg_ends_at

    @property
    def duration_ms(self) -> float | None:
        ended = self.ended_at
        return None if ended is None else max(0.0, ended - self.started_at) * 1000

    @property
    def error(self) -> tuple[str, str] | None:
        """Message and code of a failed run, as the run resource shows them."""
        if self.status != "failed":
            return None
        if self.refused is not None:
            return self.refused, "EXECUTION_FAILED"
        if self.swept_at is not None:
            return None if self._was_running else ("Job terminated: stuck in processing state", "EXECUTION_FAILED")
        if self.timed_out:
            return f"Execution timed out after {self.timeout:g} seconds", "TIMEOUT"
        return f"{self.outcome.block}: {self.outcome.message}", "EXECUTION_FAILED"

    @property
    def job_error(self) -> str | None:
        if self.status == "failed" and self.swept_at is not None and self._was_running:
            return f"Job terminated: stuck in processing for more than {STALE_AFTER / 60:.0f} minutes"
        return "Cancelled" if self.status == "cancelled" else self.error[0] if self.error else None

    @property
    def _was_running(self) -> bool:
        """Whether a run that was cleaned up had left the queue."""
        return self.swept_at is not None and self.started_at <= self.swept_at

    @property
    def sync_error(self) -> dict[str, str] | None:
        """Error in v2's response to a sync run, with the block in separate fields."""
        if self.status != "failed":
            return None
        if isinstance(self.outcome, BlockError) and not self.timed_out:
            return {
                "message": self.outcome.message,
                "code": "BLOCK_EXECUTION_FAILED",
                "blockId": self.workflow.block_id,
                "blockName": self.outcome.block,
                "blockType": self.outcome.block_type,
            }
        message, code = self.error or ("Execution failed", "EXECUTION_FAILED")
        return {"message": message, "code": code}

    def output(self, *, base_url: str, workspace_id: str) -> Any:
        """Return the raw output of the end or of the pause; ``{}`` for a failed run, None before there is one."""
        status = self.status
        if status == "failed":
            return {}
        if status == "paused":
            return self.pause_output(base_url)
        if status != "completed":
            return None
        value = self._final()
        place = f"{workspace_id}/{self.workflow_id}/{self.run_id}"
        raw = value.output if isinstance(value, ResponseBlock) else value
        return with_large_values_referred(raw, run_id=self.run_id, place=place)

    def _final(self) -> Any:
        return self.outcome.then(self._resume_input) if isinstance(self.outcome, Pausing) else self.outcome

    def pause_output(self, base_url: str) -> dict[str, Any]:
        pausing = self.outcome
        if pausing.seconds is not None:
            return {"waitDuration": int(pausing.seconds * 1000), "resumeAt": iso(self.resumes_at)}
        place = f"{self.workflow_id}/{self.run_id}"
        fields = [
            {"id": self.context_id, "name": name, "label": name, "type": kind, "value": "", "required": False}
            for name, kind in (("approved", "boolean"), ("comment", "string"))
        ]
        return {
            "data": {
                "operation": "human",
                "responseStructure": [{"name": "question", "type": "string", "value": pausing.question}],
                "inputFormat": fields,
                "submission": None,
                "_resume": {
                    "apiUrl": f"{base_url}/api/resume/{place}/{self.context_id}",
                    "uiUrl": f"{base_url}/resume/{place}",
                    "contextId": self.context_id,
                    "executionId": self.run_id,
                    "workflowId": self.workflow_id,
                },
            },
            "status": 200,
            "headers": {"Content-Type": "application/json"},
        }

    def response_block(self) -> ResponseBlock | None:
        return self._final() if self.status == "completed" and isinstance(self._final(), ResponseBlock) else None

    def block_outputs(self, selectors: list[str]) -> dict[str, Any]:
        """Return raw outputs by selector; selectors that do not begin with the block's ID are ignored."""
        if self.status not in ("completed", "paused"):
            return {}
        value = self._final()
        output = value.block_output if isinstance(value, ResponseBlock) else value
        return {
            selector: at_path(output, path)
            for selector in selectors
            if selector.startswith(self.workflow.block_id) and (path := self.workflow.selects(selector)) is not None
        }

    def resume(self, answer: Any, *, after: float = 0.0) -> str:
        """Resume it; return the ID of the attempt, by which no API finds anything, as in Sim.

        :param after: seconds until it continues; until then it is shown as paused, without its pause point.
        """
        self._resume_input = answer
        self.resumed_at = self.now() + after
        return new_id()

    def cancel(self) -> None:
        if not self.is_over:
            self.cancelled_at = self.now()

    def abandon(self) -> None:
        """Cancel it because its caller has disconnected, if its server process is there to notice."""
        if not self.stuck and self.status in ("queued", "running"):
            self.cancel()

    @property
    def is_hidden(self) -> bool:
        return self.hidden_polls > 0 or self.now() < self.created_at + self.hidden_seconds

    def poll(self) -> bool:
        """Count a poll; return whether it finds the run."""
        hidden = self.is_hidden
        self.hidden_polls = max(0, self.hidden_polls - 1)
        return not hidden

    def sweep(self) -> None:
        """Fail it, as Sim's hourly cleanup does with runs whose server process died; the log then has no error."""
        if not self.is_over:
            self.swept_at = self.now()

    def job_is_kept(self, *, keep: bool) -> bool:
        if self.mode != "async" or not keep or self.refused is not None:
            return False
        ended = self.ended_at if self.is_over else None
        return ended is None or self.now() < ended + JOB_RETENTION
