"""The run of one task instance: started once, found again by a later try, made known, and cancelled when not wanted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_sim.client import (
    SYNC_TIMEOUT,
    AsyncExecutionResult,
    RetryPolicy,
    RunStatus,
    WorkflowRun,
    WorkflowStream,
    died_with_its_connection,
    is_rejection,
    selectors_of,
)
from airflow_provider_sim.exceptions import SimConnectionError, SimError, SimRunNotFoundError, SimStreamError
from airflow_provider_sim.links.sim import push_links
from airflow_provider_sim.polling import timeout_error
from airflow_provider_sim.task.deadlines import deadline
from airflow_provider_sim.task.input import prepare_input
from airflow_provider_sim.task.results import unreachable_error
from airflow_provider_sim.task.run_store import PreviousRun, run_store_for
from airflow_provider_sim.task.stream_log import StreamLog

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import Cancellation, SimClient
    from airflow_provider_sim.operators.base import SimRunOperatorBase
    from airflow_provider_sim.task.run_store import RunStore

RUN_ID_KEY = "run_id"
JOB_ID_KEY = "job_id"

SEVEN_DAYS = 7 * 24 * 3600.0
"""Seconds; the longest that Sim lets a run take."""

LAST_WORDS = RetryPolicy(max_retries=3, initial_delay=0.5, max_delay=1.0, max_elapsed=2.0)
"""Airflow kills a worker 5 s after it has told it to end."""
LAST_WORDS_TIMEOUT = 3.0
"""Seconds, for one request of these."""


class TaskRun:
    """The run that one try of a task is about.

    :param operator: with its templates rendered.
    :param run_id: of a run that is known already.
    :param job_id: its queue entry, if known.
    :ivar streamed: whether the run's output has come in its stream.
    """

    def __init__(
        self,
        context: Context,
        operator: SimRunOperatorBase,
        *,
        run_id: str | None = None,
        job_id: str | None = None,
    ) -> None:
        self.run_id = run_id
        patience = SEVEN_DAYS if _is_asynchronous(operator) else SYNC_TIMEOUT
        self.deadline = deadline(context, operator.timeout, operator.execution_timeout, otherwise=patience)
        self._context = context
        self._operator = operator
        self._log = operator.log
        self._job_id = job_id
        self._asked_for: PreviousRun | None = None
        self._ledger: RunStore | None = None
        self._sent_before: str | None = None
        self._taken_up = False
        self._killed = False
        self._cancelled: str | None = None
        self.streamed = False

    @classmethod
    def of_this_try(cls, context: Context, operator: SimRunOperatorBase, client: SimClient) -> TaskRun:
        """The run that this try has started or re-attached to before it was deferred."""
        ti: Any = context["ti"]
        run_id = ti.xcom_pull(task_ids=ti.task_id, key=RUN_ID_KEY, map_indexes=ti.map_index)
        run = cls(context, operator, run_id=run_id)
        if run_id is None:
            noted = run._first_known(client, list(run._open_ledger(client).current_runs()))
            run._set(noted.run_id, noted.job_id) if noted else None
        return run

    def _first_known(self, client: SimClient, candidates: Sequence[PreviousRun]) -> PreviousRun | None:
        """The first candidate that Sim knows and has accepted; without any, the likeliest."""
        for noted in candidates if len(candidates) > 1 else ():
            try:
                run = client.get_workflow_run(self._operator.workflow_id, noted.run_id, job_id=noted.job_id)
            except SimRunNotFoundError:
                continue
            except SimError as error:
                self._log.warning("Could not find out whether this try has started run %s: %s", noted.run_id, error)
                break
            if not is_rejection(run):
                return noted
        return candidates[0] if candidates else None

    def reattach(self, client: SimClient) -> WorkflowRun | None:
        """Re-attach to the run that an earlier try has started, if it is active or has completed.

        :raises SimError: that can't be found out; then nothing may be started.
        """
        for noted in self._open_ledger(client).previous_runs():
            run = self._find(client, noted)
            if run is None and noted.resend and not noted.cleared:
                self._sent_before = noted.run_id
            if noted.derived and (run is None or is_rejection(run)):
                continue
            return None if run is None else self._gone_on_with(run, noted)
        return None

    def _find(self, client: SimClient, noted: PreviousRun) -> WorkflowRun | None:
        if not noted.cleared or self._operator.wait_for_completion:
            self._asked_for = noted  # the task may be killed before there is an answer
        self._stop_if_killed()
        try:
            return client.get_workflow_run(self._operator.workflow_id, noted.run_id, job_id=noted.job_id)
        except SimRunNotFoundError:
            if not client.takes_run_ids and not noted.derived:
                self._log.warning(
                    "An earlier try may have started run %s, which this server doesn't know. It may be older than"
                    " v0.7.32 and choose run ids itself; if so, that run, if any, goes on beside the one started now.",
                    noted.run_id,
                )
            return None

    def _gone_on_with(self, run: WorkflowRun, noted: PreviousRun) -> WorkflowRun | None:
        if noted.cleared:
            if not run.status.is_terminal and self._operator.wait_for_completion:
                self.give_up("the task was cleared since")
            return None
        if run.status.is_terminal and run.status is not RunStatus.COMPLETED:
            self._log.info("Run %s of an earlier try is %s: starting another.", noted.run_id, run.status)
            return None
        self._log.info("An earlier try has started run %s, which is %s: going on with it.", noted.run_id, run.status)
        self._taken_up = True
        self._announce(noted.run_id)
        self._set(noted.run_id, noted.job_id)
        return run

    def died_with_an_earlier_try(self, run: WorkflowRun) -> bool:
        """Whether a held-open run of an earlier try, found still going on, has now ended for want of a reader."""
        if not self._taken_up or self.is_asynchronous or not died_with_its_connection(run):
            return False
        self._log.info("Run %s ended with the connection of the earlier try: starting another.", run.run_id)
        self._taken_up = False
        return True

    @contextmanager
    def to_be_found(self) -> Iterator[None]:
        """Leave a run that Sim has taken and knows no more, as after a restart, to the next try, which sends it again.

        :raises SimRunError: that is so.
        """
        try:
            yield
        except SimRunNotFoundError as error:
            raise unreachable_error(self._operator.workflow_id, self.run_id or "unknown", error) from error

    def check_time(self, run: WorkflowRun) -> None:
        """Pass a run that has ended otherwise than by our hanging up when its time was up.

        :raises SimRunTimeoutError: that is how it has ended.
        """
        if not self.is_asynchronous and time.time() >= self.deadline and died_with_its_connection(run):
            raise timeout_error(self._operator.workflow_id, run.run_id or "unknown")

    def start(self, client: SimClient) -> AsyncExecutionResult | WorkflowRun:
        """Send the execution: a receipt, or the finished run where it was held open.

        :raises SimError: it wasn't started, or its fate can't be found out.
        """
        operator = self._operator
        input = prepare_input(
            operator.input,
            workflow_id=operator.workflow_id,
            asynchronous=self.is_asynchronous,
            unconverted_files=operator.unconverted_files,
        )
        left = max(1.0, self.deadline - time.time())
        try:
            started: Any = client.execute_with_retry(
                operator.workflow_id,
                input,
                timeout=None if self.is_asynchronous else left,
                stream=operator.stream or None,
                selected_outputs=(operator.selected_outputs or None) if operator.stream else None,
                async_execution=self.is_asynchronous or None,
                run_id=self._next_run_id,
                run_timeout=whole_seconds(operator.run_timeout),
                deadline=self.deadline,
                before_attempt=self._refuse_if_killed,
                may_have_sent=self._open_ledger(client).may_have_sent,
            )
        except SimError:
            self._stop_if_killed()
            raise
        if isinstance(started, WorkflowStream):
            return self._read_stream(client, started)
        self._take_note(started)
        if not (isinstance(started, WorkflowRun) and started.status.is_terminal):
            self._stop_if_killed()
        return started  # type: ignore[no-any-return]

    def _refuse_if_killed(self) -> None:
        """Start nothing more: Airflow calls ``on_kill`` in the midst of things, and lets them go on for some seconds.

        :raises AirflowException: the task was killed.
        """
        if self._killed:
            raise AirflowException("The task was killed before its run was started.")

    def _stop_if_killed(self) -> None:
        """Cancel what could not yet be cancelled when the task was killed.

        :raises AirflowException: the task was killed.
        """
        if self._killed:
            self.give_up("the task was killed meanwhile")
            raise AirflowException("The task was killed while its run was being started or looked for.")

    def _next_run_id(self) -> str:
        """Choose the next attempt's id and make it known before anything is sent."""
        self._refuse_if_killed()
        run_id, self._sent_before = self._sent_before, None
        if run_id is None:
            assert self._ledger is not None
            run_id = self._ledger.new_run_id()
        self._log.info("Starting run %s of workflow %s.", run_id, self._operator.workflow_id)
        self._announce(run_id)
        return run_id

    def _take_note(self, started: AsyncExecutionResult | WorkflowRun) -> None:
        """Of the ids that only the server knows."""
        job_id: str | None = getattr(started, "job_id", None)
        run_id = started.run_id
        if run_id and (run_id != self.run_id or job_id):
            assert self._ledger is not None
            self._ledger.note(run_id, job_id)
            if run_id != self.run_id:
                self._log.warning(
                    "The server (before v0.7.32) has chosen the run's id itself: %s. Had this worker died between its"
                    " answer and this line, the next try would have started a second run.",
                    run_id,
                )
                self._announce(run_id)
            self._set(run_id, job_id)
        if job_id and self._operator.do_xcom_push:
            self._context["ti"].xcom_push(key=JOB_ID_KEY, value=job_id)

    def _read_stream(self, client: SimClient, stream: WorkflowStream) -> WorkflowRun:
        """Put the text into the task log as it comes; where the stream breaks off, ask for the run."""
        operator = self._operator
        try:
            with stream:
                self._stop_if_killed()
                selectors = selectors_of(operator.selected_outputs)
                result = StreamLog(operator.output_rules, selectors, run_id=self.run_id).read(stream)
                self.streamed = result.status is RunStatus.COMPLETED
                return result
        except (SimStreamError, SimConnectionError) as error:
            assert self.run_id is not None
            try:
                run = client.get_workflow_run(operator.workflow_id, self.run_id)
            except SimError as blind:
                raise error from blind
            if died_with_its_connection(run):
                self.check_time(run)
                raise
            self._log.warning("%s The run is %s: going on without its text.", error, run.status)
            return run

    def finish_at_timeout(self) -> WorkflowRun | None:
        """Handle a timeout: poll once more, then cancel the run. Return the run if it finished by itself."""
        finished = self._last_poll()
        if finished is None:
            cancelled = self.give_up("its time is up")
            if cancelled and cancelled.finished_before:
                finished = self._last_poll()
        if finished is not None and not self.is_asynchronous and died_with_its_connection(finished):
            return None
        return finished

    def _last_poll(self) -> WorkflowRun | None:
        if self.run_id is None:
            return None
        try:
            with self._operator.hook.new_client(timeout=LAST_WORDS_TIMEOUT, retry=LAST_WORDS) as client:
                run = client.get_workflow_run(self._operator.workflow_id, self.run_id, job_id=self._job_id)
        except SimError as error:
            self._log.warning("The last poll of run %s failed: %s", self.run_id, error)
            return None
        return run if run.status.is_terminal else None

    def give_up(self, reason: str) -> Cancellation | None:
        """Cancel the run unless ``cancel_on_kill`` is False, and log the result.

        :return: the result; None where no cancel request was answered, or an earlier one was.
        """
        operator = self._operator
        run_id, job_id = self.run_id, self._job_id
        if run_id is None and self._asked_for is not None:
            run_id, job_id = self._asked_for.run_id, self._asked_for.job_id
        if run_id is None or run_id == self._cancelled:
            return None
        if not operator.cancel_on_kill:
            self._log.info("Run %s keeps running, although %s: cancel_on_kill is False.", run_id, reason)
            return None
        self._log.info("Cancelling run %s: %s.", run_id, reason)
        try:
            with operator.hook.new_client(timeout=LAST_WORDS_TIMEOUT, retry=LAST_WORDS) as client:
                achieved = client.stop_workflow_run(operator.workflow_id, run_id, job_id=job_id)
        except SimError as error:
            self._log.error("Run %s could not be cancelled and may go on: %s", run_id, error)
            return None
        self._log.info("%s", achieved)
        self._cancelled = run_id
        return achieved

    def kill(self) -> None:
        """Cancel the run and start no other; called in the middle of whatever the worker was doing."""
        self._killed = True
        self.give_up("the task is killed")

    @property
    def is_asynchronous(self) -> bool:
        """Whether Sim is to queue the run."""
        return _is_asynchronous(self._operator)

    def _open_ledger(self, client: SimClient) -> RunStore:
        if self._ledger is None:
            operator = self._operator
            self._ledger = run_store_for(
                self._context, durable=operator.durable, workflow_id=operator.workflow_id, server=client.base_url
            )
        return self._ledger

    def _announce(self, run_id: str) -> None:
        operator = self._operator
        self._set(run_id, None)
        if operator.do_xcom_push:
            self._context["ti"].xcom_push(key=RUN_ID_KEY, value=run_id)
            push_links(
                self._context,
                operator.hook.get_conn().base_url,
                workflow_id=operator.workflow_id,
                run_id=run_id,
                workspace_id=operator.hook.workspace_of(operator.workflow_id),
            )

    def _set(self, run_id: str, job_id: str | None) -> None:
        self.run_id, self._job_id = run_id, job_id


def _is_asynchronous(operator: SimRunOperatorBase) -> bool:
    wanted = operator.async_execution or not operator.wait_for_completion
    return wanted or (operator.deferrable and not operator.stream)


def whole_seconds(value: float | timedelta | None) -> Any:
    """A duration as Sim takes it."""
    return int(value.total_seconds()) if isinstance(value, timedelta) else value
