"""One run's life, worked out from the clock whenever somebody asks; no task waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_sim.emulator.display import with_large_values_referred
from airflow_provider_sim.emulator.ids import new_id, new_name
from airflow_provider_sim.emulator.workflows import BlockError, Pausing, ResponseBlock, Workflow, at_path

JOB_RETENTION = 24 * 3600.0
STALE_AFTER = 10085 * 60.0
"""Seconds: the longest limit of a plan, and five minutes; older runs that still go on are swept."""
COST = 0.005
"""US dollars; what every run costs at least."""


@dataclass(slots=True, eq=False)
class Run:
    """One run of one workflow.

    :param input: as the workflow's Start block handed it on.
    :param mode: ``sync``, ``async`` or ``stream``.
    :param queued_for: seconds in the queue.
    :param timeout: seconds after which the server stops it; infinite for never.
    :param stuck: its server died: it never ends, unless somebody sweeps or cancels it.
    :param refused: the words with which the start was refused; such a run never runs but has used its id up.
    :param failing: the error that it ends with, whatever its workflow does.
    :param unseen_looks: how many looks at it don't find it; ``unseen_seconds``: for how long at least.
    """

    run_id: str
    workflow: Workflow
    input: dict[str, Any]
    mode: str
    user_id: str
    now: Callable[[], float]
    created_at: float
    queued_for: float = 0.0
    timeout: float = float("inf")
    trigger: str = "api"
    refused: str | None = None
    context_id: str = field(default_factory=new_id)
    request_id: str = field(default_factory=lambda: new_name(8))
    stuck: bool = False
    failing: BlockError | None = None
    unseen_looks: int = 0
    unseen_seconds: float = 0.0
    swept_at: float | None = None
    cancelled_at: float | None = None
    resumed_at: float | None = None
    attempt_id: str | None = None
    _outcome: Any = None
    _decided: bool = False
    _after_pause: Any = None
    _ended_as: str | None = None

    @property
    def workflow_id(self) -> str:
        """The workflow's id."""
        return self.workflow.workflow_id

    @property
    def started_at(self) -> float:
        """When it left the queue."""
        return self.created_at + self.queued_for

    @property
    def first_leg_ends_at(self) -> float:
        """When it ends or pauses, unless cancelled."""
        if self.stuck:
            return float("inf")
        if self.refused is not None:
            return self.started_at
        return self.started_at + min(self._seconds, self.timeout)

    @property
    def outcome(self) -> Any:
        """What the workflow's function made of the input: an output, a ResponseBlock, a Pausing or a BlockError."""
        if not self._decided:
            self._decided = True
            try:
                self._outcome = self.failing or self.workflow.body(self.input)
            except BlockError as error:
                self._outcome = error
        return self._outcome

    @property
    def status(self) -> str:
        """The run resource's status at this moment."""
        if self.refused is not None:
            return "failed"
        if self.cancelled_at is not None:
            return "cancelled"
        if self.swept_at is not None:
            return "failed"
        if self._ended_as is not None and not self.stuck:
            return self._ended_as
        now = self.now()
        if now < self.started_at:
            return "queued"
        if now < self.first_leg_ends_at:
            return "running"
        if self.timed_out or isinstance(self.outcome, BlockError):
            self._ended_as = "failed"
        elif self.is_paused:
            return "paused"
        else:
            self._ended_as = "completed"
        return self._ended_as

    @property
    def timed_out(self) -> bool:
        """Whether the server's limit is shorter than the run."""
        return self.refused is None and self.swept_at is None and self._seconds > self.timeout

    @property
    def _seconds(self) -> float:
        """How long the run takes by itself."""
        workflow, seconds = self.workflow, self.workflow.seconds(self.input)
        if self.mode == "stream" and workflow.chunks is not None:
            seconds = max(seconds, len(workflow.chunks(self.input)) * workflow.chunk_delay)
        return seconds

    @property
    def resumes_at(self) -> float | None:
        """When a timed pause ends."""
        pausing = self.outcome
        if isinstance(pausing, Pausing) and pausing.seconds is not None:
            return self.first_leg_ends_at + pausing.seconds
        return None

    @property
    def is_paused(self) -> bool:
        """Whether it waits at its pause."""
        if not isinstance(self.outcome, Pausing):
            return False
        if self.resumed_at is not None:
            return self.now() < self.resumed_at
        at = self.resumes_at
        return at is None or self.now() < at

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.status in ("completed", "failed", "cancelled")

    @property
    def ended_at(self) -> float | None:
        """When it ended, or paused, as Sim shows both alike."""
        if self.cancelled_at is not None:
            return self.cancelled_at
        if self.swept_at is not None:
            return self.swept_at
        status = self.status
        if status in ("queued", "running"):
            return None
        return self.first_leg_ends_at if status == "paused" else self.resumed_at or self.first_leg_ends_at

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from its start to its end."""
        ended = self.ended_at
        return None if ended is None else max(0.0, ended - self.started_at) * 1000

    @property
    def log_status(self) -> str:
        """The status that lists show, which is the stored one."""
        return "pending" if self.status == "paused" else self.status

    @property
    def error(self) -> tuple[str, str] | None:
        """Message and code of a failed run, as the run resource tells them."""
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
    def error_status(self) -> int:
        """The HTTP status by which the legacy API's held-open answer tells of the error."""
        return self.outcome.status if isinstance(self.outcome, BlockError) else 500

    @property
    def job_error(self) -> str | None:
        """The error as the queue entry tells it."""
        if self.status == "failed" and self.swept_at is not None and self._was_running:
            return f"Job terminated: stuck in processing for more than {STALE_AFTER / 60:.0f} minutes"
        told = self.error
        return "Cancelled" if self.status == "cancelled" else told[0] if told else None

    @property
    def _was_running(self) -> bool:
        """Whether a swept run had left the queue."""
        return self.swept_at is not None and self.started_at <= self.swept_at

    @property
    def sync_error(self) -> dict[str, str] | None:
        """The error as v2's held-open answer tells it: with the block, and without its name in the message."""
        if self.status != "failed":
            return None
        if isinstance(self.outcome, BlockError) and not self.timed_out:
            error = self.outcome
            return {
                "message": error.message,
                "code": "BLOCK_EXECUTION_FAILED",
                "blockId": self.workflow.block_id,
                "blockName": error.block,
                "blockType": error.block_type,
            }
        message, code = self.error or ("Execution failed", "EXECUTION_FAILED")
        return {"message": message, "code": code}

    def output(self, *, base_url: str, workspace_id: str) -> Any:
        """The raw output: of the end, or of the pause; empty for failed runs, None while there is none."""
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
        if isinstance(self.outcome, Pausing):
            return self.outcome.then(self._after_pause)
        return self.outcome

    @property
    def has_paused(self) -> bool:
        """Whether it has come to its pause, now or before."""
        return isinstance(self.outcome, Pausing) and self.status in ("paused", "completed")

    def pause_output(self, base_url: str) -> dict[str, Any]:
        """What it shows and asks for at its pause."""
        from airflow_provider_sim.emulator.clock import iso

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
        """The Response block that a completed run ended in."""
        return self._final() if self.status == "completed" and isinstance(self._final(), ResponseBlock) else None

    def block_outputs(self, selectors: list[str], *, ids_only: bool) -> dict[str, Any]:
        """Raw outputs by selector; selectors of unknown blocks are left out without a word.

        :param ids_only: block names select nothing.
        """
        if self.status not in ("completed", "paused"):
            return {}
        value = self._final()
        output = value.block_output if isinstance(value, ResponseBlock) else value
        found: dict[str, Any] = {}
        for selector in selectors:
            path = self.workflow.selects(selector)
            if path is None or (ids_only and not selector.startswith(self.workflow.block_id)):
                continue
            found[selector] = at_path(output, path)
        return found

    def resume(self, answer: Any, *, after: float = 0.0) -> str:
        """Take a person's answer; return the attempt's id.

        :param after: seconds until the run goes on; until then it still looks paused, but not by what.
        """
        self._after_pause = answer
        self.resumed_at = self.now() + after
        self.attempt_id = new_id()
        return self.attempt_id

    def cancel(self) -> None:
        """End it, if it hasn't ended."""
        if not self.is_over:
            self.cancelled_at = self.now()

    def abandon(self) -> None:
        """Its caller has hung up: end it, if there still is a server that sees it."""
        if not self.stuck and self.status in ("queued", "running"):
            self.cancel()

    @property
    def is_hidden(self) -> bool:
        """Whether nobody finds it yet."""
        return self.unseen_looks > 0 or self.now() < self.created_at + self.unseen_seconds

    def hides(self) -> bool:
        """Whether this look doesn't find it."""
        hidden = self.is_hidden
        self.unseen_looks = max(0, self.unseen_looks - 1)
        return hidden

    def sweep(self) -> None:
        """End it as Sim's hourly cleanup ends runs whose server died: as failed, and without an error in the log."""
        if not self.is_over:
            self.swept_at = self.now()

    def job_is_kept(self, *, keep: bool) -> bool:
        """Whether the queue still has the run's entry."""
        if self.mode != "async" or not keep or self.refused is not None:
            return False
        ended = self.ended_at if self.is_over else None
        return ended is None or self.now() < ended + JOB_RETENTION
