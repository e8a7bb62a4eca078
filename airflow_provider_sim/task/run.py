"""The run of one task instance: start it at most once, re-attach to it after a retry, cancel it when not wanted."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import InitVar, asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_sim.client import (
    AsyncExecutionResult,
    RetryPolicy,
    RunStatus,
    StartStoppedError,
    StopToken,
    WorkflowRun,
    WorkflowStream,
    died_with_its_connection,
    is_rejection,
)
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConnectionError,
    SimError,
    SimInputError,
    SimRunNotFoundError,
    SimRunTimeoutError,
    SimStreamError,
    SimUnsupportedError,
)
from airflow_provider_sim.links.sim import push_approval_link, push_run_link
from airflow_provider_sim.metrics import Metric
from airflow_provider_sim.polling import timeout_error, unreachable_error
from airflow_provider_sim.task.input import UPLOAD_WITHOUT_WAITING, InputFile, prepare_input
from airflow_provider_sim.task.run_store import PreviousRun, RunStore
from airflow_provider_sim.task.stream_log import StreamLog
from airflow_provider_sim.task.uploads import Uploads, delete_uploads, upload_files

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import Cancellation, SimClient
    from airflow_provider_sim.hooks.sim import SimHook
    from airflow_provider_sim.task.run_options import RunOptions

log = logging.getLogger(__name__)

RUN_ID_KEY = "run_id"
JOB_ID_KEY = "job_id"
UPLOADS_KEY = "uploads"

# For the last requests of a task: Airflow kills a worker process 5 s after it has signaled it.
SHUTDOWN_RETRY = RetryPolicy(max_retries=3, initial_delay=0.5, max_delay=1.0, max_elapsed=2.0)
SHUTDOWN_TIMEOUT = 3.0  # seconds for each


@dataclass(eq=False)
class TaskRun:
    """The run of one try of a task.

    :param run_id: of a run that is already known.
    :param job_id: its queue entry, if known.
    :param uploads: of its input's files, if any.
    :param has_files: whether the input has files.
    :ivar streamed: whether the run's output was received in its stream.
    """

    context: Context
    hook: SimHook
    workflow_id: str
    options: RunOptions
    run_id: str | None = None
    job_id: str | None = None
    uploads: InitVar[dict[str, Any] | None] = None
    has_files: bool = False
    streamed: bool = field(default=False, init=False)

    def __post_init__(self, uploads: dict[str, Any] | None) -> None:
        server, durable = self.hook.get_settings().base_url, self.options.durable
        self._ti: Any = self.context["ti"]
        self._store = RunStore(self.context, durable=durable, workflow_id=self.workflow_id, server=server)
        self._store.uploads = Uploads(**uploads) if uploads else None
        self._candidate: PreviousRun | None = None
        self._resend_id: str | None = None
        self._reattached = False
        self._stop_token = StopToken()
        self._cancelled_id: str | None = None

    def find_current(self, client: SimClient) -> None:
        """Find the run that this try started or re-attached to before it was deferred, or else the likeliest."""
        self.run_id, uploads = (
            self._ti.xcom_pull(task_ids=self._ti.task_id, key=key, map_indexes=self._ti.map_index)
            for key in (RUN_ID_KEY, UPLOADS_KEY)
        )
        candidates = [] if self.run_id else self._previous_runs(of_this_try=True)[0]
        if uploads:
            self._store.uploads = Uploads(**uploads)
        for candidate in candidates if len(candidates) > 1 else ():
            try:
                run = client.get_workflow_run(self.workflow_id, candidate.run_id, job_id=candidate.job_id)
            except SimRunNotFoundError:
                continue
            except SimError as error:
                log.warning("Could not find out whether this try has started run %s: %s", candidate.run_id, error)
                break
            if not is_rejection(run):
                candidates = [candidate]
                break
        if candidates:
            self.run_id, self.job_id = candidates[0].run_id, candidates[0].job_id

    def _previous_runs(self, **which: bool) -> tuple[list[PreviousRun], bool]:
        workspace = lambda: self.hook.workspace_of(self.workflow_id) if self.has_files else None  # noqa: E731
        return self._store.previous_runs(workspace, **which)

    def reattach(self, client: SimClient) -> WorkflowRun | None:
        """Re-attach to an earlier try's run, if it is active or has completed; raise if that can't be found out."""
        run, found = None, None
        previous_runs, cleared = self._previous_runs()
        for previous in previous_runs:
            run = self._find(client, previous)
            if run is None and previous.resend and not previous.cleared:
                self._resend_id = previous.run_id
            if not previous.derived or not (run is None or is_rejection(run)):
                found = run and self._use(run, previous)
                break
        if found is None:
            self._candidate = None
        if cleared:
            if run is None or run.status.is_terminal:
                self.delete_uploads(client)
            self._store.uploads = None
        return found

    def _find(self, client: SimClient, previous: PreviousRun) -> WorkflowRun | None:
        if not previous.cleared or self.options.wait_for_completion:
            self._candidate = previous  # the task may be killed before there is a response
        self._raise_if_killed()
        try:
            return client.get_workflow_run(self.workflow_id, previous.run_id, job_id=previous.job_id)
        except SimRunNotFoundError:
            if not client.accepts_run_ids and not previous.derived:
                log.warning(
                    "An earlier try may have started run %s, which this server doesn't know. A server before v0.7.32"
                    " chooses run IDs itself; such a run, if any, continues in parallel to the one started now.",
                    previous.run_id,
                )
            return None

    def _use(self, run: WorkflowRun, previous: PreviousRun) -> WorkflowRun | None:
        if previous.cleared:
            if not run.status.is_terminal and self.options.wait_for_completion:
                self.cancel("the task was cleared")
            return None
        self._reattached = run.status is RunStatus.COMPLETED or not run.status.is_terminal
        what = "re-attaching to it" if self._reattached else "starting another"
        log.info("Run %s of an earlier try is %s; %s.", previous.run_id, run.status, what)
        if self._reattached:
            Metric.RUN_REATTACHED.incr()
            self._publish(previous.run_id, previous.job_id)
        return run if self._reattached else None

    def died_with_previous_try(self, run: WorkflowRun) -> bool:
        """Whether a sync run of an earlier try, found active, was then cancelled with that try's connection."""
        if not self._reattached or not self._has_died(run):
            return False
        log.info("Run %s ended with the connection of the earlier try; starting another.", run.run_id)
        self._reattached, self.run_id = False, None
        return True

    def _has_died(self, run: WorkflowRun) -> bool:
        return not self.options.is_async and died_with_its_connection(run)

    @contextmanager
    def retry_if_not_found(self) -> Iterator[None]:
        """Make a run that Sim has lost, as after a restart, a retryable error; the next try sends it again."""
        try:
            yield
        except SimError as error:
            if not isinstance(error, SimRunTimeoutError):  # which cancels the run
                self._log_kept_uploads()
            if isinstance(error, SimRunNotFoundError):
                raise unreachable_error(self.workflow_id, self.run_id or "unknown", error) from error
            raise

    def check_deadline(self, run: WorkflowRun) -> None:
        """Raise if the run was cancelled because we closed the connection at the deadline."""
        if self.options.deadline and time.time() >= self.options.deadline and self._has_died(run):
            raise timeout_error(self.workflow_id, run.run_id or "unknown")

    def start(self, client: SimClient, input: Any) -> AsyncExecutionResult | WorkflowRun:
        """Start the run; return the finished run if the connection was held open."""
        options, deadline = self.options, self.options.deadline or time.time()
        earlier = self._store.uploads
        try:
            fields = prepare_input(
                input,
                self.workflow_id,
                is_async=options.is_async,
                check=client.check_input,
                upload=lambda files: self._upload(client, files),
            )
            if self._store.uploads is earlier:  # which this run doesn't use
                self.delete_uploads(client)
            started: WorkflowRun | AsyncExecutionResult | WorkflowStream = client.start_workflow_run(
                self.workflow_id,
                fields,
                timeout=None if options.is_async else max(1.0, deadline - time.time()),
                stream=options.stream,
                selected_outputs=options.selected_outputs if options.stream else None,
                async_execution=options.is_async,
                run_id=self._run_ids(),
                run_timeout=options.run_timeout,
                deadline=deadline,
                stop=self._stop_token,
                unsent_ids=self._store.unsent_ids,
            )
        except StartStoppedError:
            self._delete_uploads_at_once()
            raise AirflowException("The task was killed before its run was started.") from None
        except SimError as error:
            self._raise_if_killed()
            if self.run_id is None or error.outcome in (Outcome.NEVER_SENT, Outcome.REFUSED):
                self.delete_uploads(client)
            self._log_kept_uploads()
            raise
        if isinstance(started, WorkflowStream):
            return self._read_stream(client, started)
        self._record_server_ids(started)
        if not (isinstance(started, WorkflowRun) and started.status.is_terminal):
            self._raise_if_killed()
        return started

    def _raise_if_killed(self) -> None:
        """If the task was killed, cancel what could not yet be cancelled then, and raise."""
        if self._stop_token.stopped:
            self.cancel("the task was killed")
            raise AirflowException("The task was killed while its run was being started or looked up.")

    def _run_ids(self) -> Iterator[str]:
        """Run IDs for the attempts, each persisted and published before it is sent."""
        while not self._stop_token.stopped:
            run_id, self._resend_id = self._resend_id, None
            run_id = run_id or self._store.new_run_id()
            log.info("Starting run %s of workflow %s.", run_id, self.workflow_id)
            self._publish(run_id, None)
            yield run_id
        raise StartStoppedError

    def _record_server_ids(self, started: AsyncExecutionResult | WorkflowRun) -> None:
        job_id: str | None = getattr(started, "job_id", None)
        run_id = started.run_id
        if run_id and (run_id != self.run_id or job_id):
            self._store.record(run_id, job_id)
            if run_id != self.run_id:
                log.warning(
                    "The server (before v0.7.32) chose the run ID itself: %s. If this worker had died between the"
                    " server's response and this line, the next try would have started a second run.",
                    run_id,
                )
                self._publish(run_id, job_id)
            self.job_id = job_id
        if job_id and self.options.do_xcom_push:
            self._ti.xcom_push(key=JOB_ID_KEY, value=job_id)

    def _read_stream(self, client: SimClient, stream: WorkflowStream) -> WorkflowRun:
        """Write the text into the task log as it arrives; if the stream breaks off, get the run."""
        try:
            with stream:
                self._raise_if_killed()
                result = StreamLog(self.options, run_id=self.run_id).read(stream)
                self.streamed = result.status is RunStatus.COMPLETED
                return result
        except (SimStreamError, SimConnectionError) as error:
            try:
                run = client.get_workflow_run(self.workflow_id, self.run_id or "")
            except SimError as not_found:
                raise error from not_found
            if died_with_its_connection(run):
                self.delete_uploads(client)
                self.check_deadline(run)
                raise
            log.warning("%s The run is %s; its text is no longer logged.", error, run.status)
            return run

    def finish_at_timeout(self) -> WorkflowRun | None:
        """Handle a timeout: poll once more, then cancel the run. Return the run if it was finished already."""
        finished = self._last_poll()
        if finished is None and (cancelled := self.cancel("its timeout has passed")) and cancelled.finished_before:
            finished = self._last_poll()
        if finished is not None and self._has_died(finished):
            self._delete_uploads_at_once()
            return None
        return finished

    def _last_poll(self) -> WorkflowRun | None:
        if self.run_id is None:
            return None
        try:
            with self.hook.new_client(timeout=SHUTDOWN_TIMEOUT, retry=SHUTDOWN_RETRY) as client:
                run = client.get_workflow_run(self.workflow_id, self.run_id, job_id=self.job_id)
        except SimError as error:
            log.warning("The last poll of run %s failed: %s", self.run_id, error)
            return None
        return run if run.status.is_terminal else None

    def cancel(self, reason: str) -> Cancellation | None:
        """Cancel the run unless ``cancel_on_kill`` is False; return the result of the request, if it was sent now.

        The uploads of a run that is cancelled, or was not started, are deleted.
        """
        known = self if self.run_id else self._candidate
        run_id, job_id = (known.run_id, known.job_id) if known else (None, None)
        if run_id is None or run_id == self._cancelled_id:
            self._delete_uploads_at_once()
            return None
        if not self.options.cancel_on_kill:
            log.info("Run %s continues, although %s: cancel_on_kill is False.", run_id, reason)
            self._log_kept_uploads()
            return None
        log.info("Cancelling run %s: %s.", run_id, reason)
        try:
            with self.hook.new_client(timeout=SHUTDOWN_TIMEOUT, retry=SHUTDOWN_RETRY) as client:
                result = client.stop_workflow_run(self.workflow_id, run_id, job_id=job_id)
                log.info("%s", result)
                self._cancelled_id = run_id
                self.delete_uploads(client)
        except SimError as error:
            log.error("Run %s could not be cancelled and may continue: %s", run_id, error)
            self._log_kept_uploads()
            return None
        return result

    def kill(self) -> None:
        """Cancel the run and start no other; called in a signal handler, at any point of the task."""
        self._stop_token.stopped = True
        self.cancel("the task is killed")

    def _upload(self, client: SimClient, files: list[InputFile]) -> list[dict[str, Any]]:
        """Upload files for the run and return references to them; an earlier try may have uploaded some."""
        options, earlier = self.options, self._store.uploads
        if not options.wait_for_completion and not options.keep_uploads:
            raise SimInputError(f"{UPLOAD_WITHOUT_WAITING}.", workflow_id=self.workflow_id)
        try:
            workspace_id = self._workspace_id()
            if earlier and earlier.workspace_id != workspace_id:
                self.delete_uploads(client)
                earlier = None
            uploads = Uploads(workspace_id, earlier.token if earlier else self._store.upload_token)

            def check() -> None:
                self._store.uploads = uploads  # a kill has deleted those that were complete then
                self._raise_if_killed()

            check()
            self._store.record_uploads()
            references = upload_files(client, uploads, files, resume=earlier is not None, check=check)
            check()
        except SimUnsupportedError as error:
            names = ", ".join(repr(file.name) for file in files)
            why = "Sim converts files in sync runs only" if options.is_async else "they exceed the size of a request"
            raise SimInputError(
                f"The files {names} of the input need an upload, since {why}, but this server has no files API (v2)."
                " Use a sync run (neither async_execution nor deferrable, and wait_for_completion) or stream=True, with"
                " files of up to 7.5 MiB in all; or send a URL as text, for the workflow to download.",
                workflow_id=self.workflow_id,
            ) from error
        return references

    def _workspace_id(self) -> str:
        of_connection = self.hook.get_settings().workspace_id
        workflow = None if of_connection else self.hook.read_workflow(self.workflow_id, required=True)
        workspace_id = of_connection or (workflow and workflow.workspace_id)
        if not workspace_id:
            raise SimUnsupportedError(f"The workspace of workflow {self.workflow_id!r} is unknown.")
        return workspace_id

    def settle_uploads(self, client: SimClient, run: WorkflowRun) -> None:
        """Delete the uploads if the run has finished."""
        if run.status.is_terminal:
            self.delete_uploads(client)
        self._log_kept_uploads()

    def delete_uploads(self, client: SimClient) -> None:
        """Delete the uploads, which no run needs, unless ``keep_uploads`` is set; an error is only logged.

        The record stays: a retry asks Sim which of them exist.
        """
        if self._store.uploads and not self.options.keep_uploads:
            delete_uploads(client, self._store.uploads)
        self._store.uploads = None

    def _delete_uploads_at_once(self) -> None:
        if self._store.uploads:
            with self.hook.new_client(timeout=SHUTDOWN_TIMEOUT, retry=SHUTDOWN_RETRY) as client:
                self.delete_uploads(client)

    def _log_kept_uploads(self) -> None:
        if self._store.uploads and not self.options.keep_uploads:
            log.info("%s are not deleted, since the run may need them.", self._store.uploads)

    def deferred_uploads(self) -> dict[str, Any] | None:
        """Return the uploads for the trigger to delete; they are an XCom as well, for a deferral timeout."""
        if self._store.uploads is None or self.options.keep_uploads:
            return None
        uploads = asdict(self._store.uploads)
        if self.options.do_xcom_push:
            self._ti.xcom_push(key=UPLOADS_KEY, value=uploads)
        return uploads

    def _publish(self, run_id: str, job_id: str | None) -> None:
        """Use a run ID from now on, and push it and the links as XComs."""
        self.run_id, self.job_id = run_id, job_id
        if self.options.do_xcom_push:
            self._ti.xcom_push(key=RUN_ID_KEY, value=run_id)
            push_run_link(self.context, self.hook, self.workflow_id, run_id)

    def on_approval(self, url: str) -> None:
        """Push the link to the page on which a person answers the run."""
        if self.options.do_xcom_push:
            push_approval_link(self.context, url)
