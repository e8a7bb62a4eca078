"""The run of one task instance: start it at most once, re-attach to it after a retry, cancel it with the task."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
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
from airflow_provider_sim.links.sim import push_run_link
from airflow_provider_sim.metrics import Metric
from airflow_provider_sim.polling import timeout_error, unreachable_error
from airflow_provider_sim.task.input import InputFile, check_fields, has_files, input_fields, prepare_input
from airflow_provider_sim.task.run_store import PreviousRun, RunStore
from airflow_provider_sim.task.uploads import Uploads, delete_uploads, upload_files

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import Cancellation, SimClient
    from airflow_provider_sim.hooks.sim import SimHook
    from airflow_provider_sim.task.run_options import RunOptions

log = logging.getLogger(__name__)

# For the last requests of a task: Airflow kills a worker process 5 s after it has signaled it.
SHUTDOWN_RETRY = RetryPolicy(max_retries=3, initial_delay=0.5, max_delay=1.0, max_elapsed=2.0)
SHUTDOWN_TIMEOUT = 3.0  # seconds for each
LAST_TIMEOUT = 30.0  # the same after a timeout, at which nothing is killed


class TaskRun:
    """The run of one try of a task, with the files that are uploaded for it."""

    def __init__(
        self, context: Context, hook: SimHook, workflow_id: str, options: RunOptions, input: Any = None
    ) -> None:
        self.context = context
        self.hook = hook
        self.workflow_id = workflow_id
        self.options = options
        self.run_id: str | None = None
        self.job_id: str | None = None  # its queue entry, if known
        self.streamed = False  # the run's output was received in its stream
        self._input = input
        self._ti: Any = context["ti"]
        server = hook.get_settings().base_url
        self._store = RunStore(context, durable=options.durable, workflow_id=workflow_id, server=server)
        self._candidate: PreviousRun | None = None
        self._resend_id: str | None = None
        self._reattached = False
        self._stop_token = StopToken()
        self._cancelled_id: str | None = None

    def use(self, run_id: str, job_id: str | None = None, uploads: dict[str, Any] | None = None) -> None:
        """Set the run that this try waits for, if another process has started it."""
        self.run_id, self.job_id = run_id, job_id
        self._store.uploads = Uploads(**uploads) if uploads else None

    def find_current(self) -> None:
        """Find the run that this try started or re-attached to before it was deferred, or else the likeliest."""
        candidates, _ = self._previous_runs(of_this_try=True)
        self.run_id = self._ti.xcom_pull(task_ids=self._ti.task_id, key="run_id", map_indexes=self._ti.map_index)
        if candidates and not self.run_id:
            likeliest = next(filter(self._exists, candidates), candidates[0])
            self.run_id, self.job_id = likeliest.run_id, likeliest.job_id

    def _exists(self, candidate: PreviousRun) -> bool:
        try:
            run = self.hook.get_workflow_run(self.workflow_id, candidate.run_id, job_id=candidate.job_id)
            return not is_rejection(run)
        except SimError as error:
            return not isinstance(error, SimRunNotFoundError)

    def _previous_runs(self, *, of_this_try: bool = False) -> tuple[list[PreviousRun], bool]:
        workspace_id = self.hook.workspace_of(self.workflow_id) if has_files(self._input) else None
        return self._store.previous_runs(workspace_id, of_this_try=of_this_try)

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
                self.release_uploads(client, unused=True)
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
                self.release_uploads(unused=False)
            if isinstance(error, SimRunNotFoundError):
                raise unreachable_error(self.workflow_id, self.run_id or "unknown", error) from error
            raise

    def check_deadline(self, run: WorkflowRun) -> None:
        """Raise if the run was cancelled because we closed the connection at the deadline."""
        if self.options.deadline and time.time() >= self.options.deadline and self._has_died(run):
            raise timeout_error(self.workflow_id, run.run_id or "unknown")

    def start(self, client: SimClient) -> AsyncExecutionResult | WorkflowRun:
        """Check the input and start the run; return the finished run if the connection was held open."""
        options, deadline = self.options, self.options.deadline or time.time()
        earlier, given = self._store.uploads, input_fields(self._input, workflow_id=self.workflow_id)
        check_fields(self.hook, self.workflow_id, [given], options.check_input)
        try:
            fields = prepare_input(
                given,
                self.workflow_id,
                is_async=options.is_async,
                check=client.check_input,
                upload=lambda files: self._upload(client, files),
            )
            if self._store.uploads is earlier:  # which this run doesn't use
                self.release_uploads(client, unused=True)
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
            self.release_uploads(unused=True)
            raise AirflowException("The task was killed before its run was started.") from None
        except SimError as error:
            self._raise_if_killed()
            unused = self.run_id is None or error.outcome in (Outcome.NEVER_SENT, Outcome.REFUSED)
            self.release_uploads(client, unused=unused)
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
        run_id, job_id = started.run_id, getattr(started, "job_id", None)
        if run_id and (run_id != self.run_id or job_id):
            self._store.record(run_id=run_id, job_id=job_id)
            if run_id != self.run_id:
                warning = (
                    "The server (before v0.7.32) chose the run ID itself: %s. After a crash before this line, a retry"
                    " would have started a second run."
                )
                log.warning(warning, run_id)
                self._publish(run_id, job_id)
            self.job_id = job_id
        if job_id and self.options.do_xcom_push:
            self._ti.xcom_push(key="job_id", value=job_id)

    def _read_stream(self, client: SimClient, stream: WorkflowStream) -> WorkflowRun:
        """Write the text into the task log as it arrives; if the stream breaks off, get the run."""
        from airflow_provider_sim.task.stream_log import StreamLog

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
                self.release_uploads(client, unused=True)
                self.check_deadline(run)
                raise
            log.warning("%s The run is %s; its text is no longer logged.", error, run.status)
            return run

    def finish_at_timeout(self, error: BaseException | None = None, *, must_exist: bool = False) -> WorkflowRun:
        """Handle a timeout: poll once more, then cancel the run; return a run that has finished, or raise the error.

        :param must_exist: raise a SimRunNotFoundError instead if Sim doesn't have the run.
        """
        finished = self._last_poll(must_exist=must_exist)
        if finished is None and (cancelled := self.cancel("its timeout has passed")) and cancelled.finished_before:
            finished = self._last_poll()
        if finished is not None and not self._has_died(finished):
            return finished
        if finished is not None:
            self.release_uploads(unused=True)
        raise error or timeout_error(self.workflow_id, self.run_id or "unknown")

    def _last_poll(self, *, must_exist: bool = False) -> WorkflowRun | None:
        if self.run_id is None:
            return None
        try:
            with self._last_client() as client:
                run = client.get_workflow_run(self.workflow_id, self.run_id, job_id=self.job_id)
        except SimError as error:
            if must_exist and isinstance(error, SimRunNotFoundError):
                raise
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
            self.release_uploads(unused=True)
            return None
        if not self.options.cancel_on_kill:
            log.info("Run %s continues, although %s: the task is set not to cancel it.", run_id, reason)
            self.release_uploads(unused=False)
            return None
        log.info("Cancelling run %s: %s.", run_id, reason)
        try:
            with self._last_client() as client:
                result = client.stop_workflow_run(self.workflow_id, run_id, job_id=job_id)
                log.info("%s", result)
                self._cancelled_id = run_id
                self.release_uploads(client, unused=True)
        except SimError as error:
            log.error("Run %s could not be cancelled and may continue: %s", run_id, error)
            self.release_uploads(unused=False)
            return None
        return result

    def kill(self) -> None:
        """Cancel the run and start no other; called in a signal handler, at any point of the task."""
        self._stop_token.stopped = True
        self.cancel("the task is killed")

    def _upload(self, client: SimClient, files: list[InputFile]) -> list[dict[str, Any]]:
        """Upload files for the run and return references to them; an earlier try may have uploaded some."""
        earlier = self._store.uploads
        try:
            workspace_id = self.hook.workspace_of(self.workflow_id, required=True)
            if workspace_id is None:
                raise SimUnsupportedError(f"The workspace of workflow {self.workflow_id!r} is unknown.")
            if earlier and earlier.workspace_id != workspace_id:
                self.release_uploads(client, unused=True)
                earlier = None
            uploads = Uploads(workspace_id, earlier.token if earlier else self._store.upload_token)

            def check() -> None:
                self._store.uploads = uploads  # a kill has deleted those that were complete then
                self._raise_if_killed()

            check()
            self._store.record()
            references = upload_files(client, uploads, files, resume=earlier is not None, check=check)
            check()
        except SimUnsupportedError as error:
            names = ", ".join(repr(file.name) for file in files)
            is_async = self.options.is_async
            why = "Sim converts files in sync runs only" if is_async else "they exceed the size of a request"
            raise SimInputError(
                f"The files {names} of the input need an upload, since {why}, but this server has no files API (v2)."
                " Use a sync run (neither async_execution nor deferrable, and wait_for_completion) or stream=True, with"
                " files of up to 7.5 MiB in all; or send a URL as text, for the workflow to download.",
                workflow_id=self.workflow_id,
            ) from error
        return references

    def release_uploads(self, client: SimClient | None = None, *, unused: bool) -> None:
        """Delete the uploads that no run needs, unless ``keep_uploads`` is set; those that one may need are logged.

        The record stays: a retry asks Sim which of them exist.
        """
        uploads = None if self.options.keep_uploads else self._store.uploads
        if uploads and unused:
            with nullcontext(client) if client else self._last_client() as deleting:
                delete_uploads(deleting, uploads)
        elif uploads:
            log.info("%s are not deleted, since the run may need them.", uploads)
        if unused:
            self._store.uploads = None

    def _last_client(self) -> SimClient:
        """Return a client for the last requests of a task, which may take long only if the task isn't killed."""
        timeout = SHUTDOWN_TIMEOUT if self._stop_token.stopped else LAST_TIMEOUT
        return self.hook.new_client(timeout=timeout, retry=SHUTDOWN_RETRY)

    def deferred_uploads(self) -> dict[str, Any] | None:
        """Return the uploads for the trigger to delete."""
        return asdict(self._store.uploads) if self._store.uploads and not self.options.keep_uploads else None

    def _publish(self, run_id: str, job_id: str | None) -> None:
        """Use a run ID from now on, and push it and the links as XComs."""
        self.run_id, self.job_id = run_id, job_id
        if self.options.do_xcom_push:
            self._ti.xcom_push(key="run_id", value=run_id)
            push_run_link(self.context, self.hook, self.workflow_id, run_id)
