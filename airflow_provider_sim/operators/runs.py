"""Operators for existing runs: cancel a run, answer a paused one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.exceptions import SimError, SimInputError
from airflow_provider_sim.links.sim import APPROVAL_URL_KEY, SimApprovalLink, SimRunLink, push_run_link
from airflow_provider_sim.operators.base import SimClientOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import SimClient
    from airflow_provider_sim.task.run_store import StateEntry


class SimCancelRunOperator(SimClientOperator):
    """Cancel a run, no matter what started it. The task succeeds also if the run has already finished.

    Returns ``run_id``, ``status`` (the final status, or the last known one), ``accepted`` and ``reason`` (Sim's own
    explanation of the cancellation).

    :param workflow_id: the run's workflow. (templated)
    :param run_id: the run; on the legacy API also a job ID. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param wait_for_completion: wait until the run has finished: Sim stops it at the end of its current block.
    :param poll_interval: seconds or timedelta between polls; default: a tenth of the time that has passed, 1 s to 30 s.
    :param timeout: seconds or timedelta to wait for the run.
    :param retry_args: retry settings for idempotent requests, which override the connection's.
    :raises SimRunNotFoundError: Sim doesn't have the run.
    :raises SimRunTimeoutError: the run did not finish within the timeout.
    :raises SimUnsupportedError: the server can't cancel runs.
    """

    template_fields: Sequence[str] = ("workflow_id", "run_id", "sim_conn_id")

    def __init__(self, *, run_id: str, wait_for_completion: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.wait_for_completion = wait_for_completion
        self._check_constants()

    def execute_with(self, client: SimClient, context: Context, *, deadline: float) -> dict[str, Any]:
        from airflow_provider_sim.polling import RunPollState, wait_for_run

        cancelled = client.stop_workflow_run(self.workflow_id, self.run_id)
        if self.wait_for_completion and not (cancelled.status and cancelled.status.is_terminal):
            self.log.info("%s", cancelled)
            state = RunPollState(
                self.workflow_id, self.run_id, poll_interval=self.poll_interval, started=time.time(), deadline=deadline
            )
            cancelled = replace(cancelled, status=wait_for_run(client, state).status)
        self.log.info("%s", cancelled)
        status = cancelled.status.value if cancelled.status else None
        return {"run_id": self.run_id, "status": status, "accepted": cancelled.accepted, "reason": cancelled.reason}


class SimResumeRunOperator(SimClientOperator):
    """Answer a run that is paused for a person, no matter what started it; wait for its end with ``SimJobSensor``.

    Sim accepts one answer to a pause. A retry of the task, and a request whose response was lost, check the pause
    first: an answer that was accepted is not sent again, and the task succeeds. If someone else has answered before, in
    Sim or by another task, the task fails without retries.

    Returns ``run_id`` (the run keeps its ID), ``context_id`` and ``status`` (of the run just after, or None).
    Other XComs: ``run_id``, ``run_url``, ``approval_url``.

    :param workflow_id: the run's workflow. (templated)
    :param run_id: the run. (templated)
    :param context_id: the pause point; default: the only one that waits for a person. (templated)
    :param input: the answer: the fields that the workflow's block asks for, as a dict. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param poll_interval: seconds or timedelta between polls; default: a tenth of the time that has passed, 1 s to 30 s.
    :param timeout: seconds or timedelta to wait for the run to pause, if it isn't paused yet.
    :param retry_args: retry settings for idempotent requests, which override the connection's.
    :raises SimPauseAnsweredError: someone else has answered the pause, or the run has finished.
    :raises SimInputError: the run has several pauses and ``context_id`` names none; they are listed.
    :raises SimRunTimeoutError: the run did not pause within the timeout.
    :raises SimRunNotFoundError: Sim doesn't have the run.
    """

    template_fields: Sequence[str] = ("workflow_id", "run_id", "context_id", "input", "sim_conn_id")
    template_fields_renderers = {"input": "json"}
    operator_extra_links = (SimRunLink(), SimApprovalLink())

    def __init__(self, *, run_id: str, context_id: str | None = None, input: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.context_id = context_id
        self.input = input
        self._check_constants()

    def execute_with(self, client: SimClient, context: Context, *, deadline: float) -> dict[str, Any]:
        from airflow_provider_sim.client import NO_RETRY, approval_url
        from airflow_provider_sim.polling.pause import PauseAnswer
        from airflow_provider_sim.task.input import input_fields
        from airflow_provider_sim.task.run_store import ANSWER_KEY, StateEntry

        if self.do_xcom_push:
            context["ti"].xcom_push(key="run_id", value=self.run_id)
            push_run_link(context, self.hook, self.workflow_id, self.run_id)
            url = approval_url(client.base_url, self.workflow_id, self.run_id)
            context["ti"].xcom_push(key=APPROVAL_URL_KEY, value=url)
        subject = {"workflow_id": self.workflow_id, "run_id": self.run_id, "server": client.base_url}
        entry = StateEntry(context.get("task_state_store"), context, ANSWER_KEY, **subject)
        answer = PauseAnswer(
            client=client,
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            context_id=self.context_id or None,
            input=None if self.input is None else input_fields(self.input, workflow_id=self.workflow_id),
            poll_interval=self.poll_interval,
            deadline=deadline,
            persist=lambda context_id: entry.write(context_id=context_id),
            previous=self._previously_answered(context, client, entry),
        )
        context_id, status = answer.send(), None
        with suppress(SimError):
            status = client.with_retry(NO_RETRY).get_workflow_run(self.workflow_id, self.run_id).status.value
        self.log.info("Pause %s of run %s is answered; the run is %s.", context_id, self.run_id, status or "unknown")
        return {"run_id": self.run_id, "context_id": context_id, "status": status}

    def _previously_answered(self, context: Context, client: SimClient, entry: StateEntry) -> str | None:
        """Return the pause point that an earlier try may have answered; a retry must not answer another."""
        if entry.is_durable or int(getattr(context["ti"], "try_number", 1) or 1) == 1:
            values, cleared = entry.read()
            return None if cleared else values.get("context_id")
        if self.context_id:
            return self.context_id
        if client.get_paused_run(self.workflow_id, self.run_id).resumed_count:
            raise SimInputError(
                f"Run {self.run_id!r} was answered before, perhaps by an earlier try of this task, which Airflow before"
                " 3.3 doesn't record. Name the pause by context_id, so that a retry can't answer another.",
                workflow_id=self.workflow_id,
                run_id=self.run_id,
            )
        return None
