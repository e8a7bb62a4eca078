"""Act on runs that exist already."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import Rule
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.links.sim import SimApprovalLink, SimRunLink, SimWorkflowLink, push_links
from airflow_provider_sim.operators.base import SimOperator
from airflow_provider_sim.task.deadlines import seconds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import SimClient
    from airflow_provider_sim.task.run_store import PauseAnswerStore


_RULES: Mapping[str, Rule] = {
    "workflow_id": arguments.workflow_id,
    "run_id": arguments.run_id,
    "poll_interval": arguments.duration,
    "timeout": arguments.duration,
    "retry_args": arguments.optional(arguments.retry_args),
}


class SimCancelRunOperator(SimOperator):
    """Cancel a run, whoever started it. A run that is over already is left as it is, and the task succeeds.

    Returns ``run_id``, ``status`` (how the run ended, or what it was at the last look), ``accepted`` and ``reason``
    (Sim's own words on the cancelling).

    :param workflow_id: the run's workflow. (templated)
    :param run_id: the run; on old servers a job's id, too. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param wait_for_completion: wait until the run is over: Sim stops it at the end of its present block.
    :param poll_interval: seconds or timedelta between looks.
    :param timeout: seconds or timedelta to wait at most.
    :param retry_args: as for :class:`~airflow_provider_sim.operators.sim.SimExecuteWorkflowOperator`.
    :raises SimRunNotFoundError: there is no such run.
    :raises SimRunTimeoutError: the run goes on in spite of it.
    :raises SimUnsupportedError: the server is older than v0.5.44.
    """

    template_fields: Sequence[str] = ("workflow_id", "run_id", "sim_conn_id")
    ui_color = "#ede9fe"
    argument_rules: ClassVar[Mapping[str, Rule]] = _RULES

    def __init__(
        self,
        *,
        workflow_id: str,
        run_id: str,
        sim_conn_id: str = SimHook.default_conn_name,
        wait_for_completion: bool = True,
        poll_interval: float | timedelta = 5.0,
        timeout: float | timedelta = 300.0,
        retry_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.sim_conn_id = sim_conn_id
        self.wait_for_completion = wait_for_completion
        self.poll_interval = seconds(poll_interval)
        self.timeout = timeout
        self.retry_args = retry_args
        self._check_constants()

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask Sim to cancel the run, and see what becomes of it."""
        from dataclasses import replace

        from airflow_provider_sim.polling import PollState, wait_for_run

        self._check_rendered()
        patience = seconds(self.timeout)
        with SimHook(self.sim_conn_id, retry_args=self.retry_args) as hook:
            client = hook.get_conn()
            achieved = client.stop_workflow_run(self.workflow_id, self.run_id)
            if self.wait_for_completion and not (achieved.status and achieved.status.is_terminal):
                self.log.info("%s", achieved)
                watch = PollState(
                    self.workflow_id,
                    self.run_id,
                    poll_interval=self.poll_interval,
                    deadline=time.time() + patience,
                )
                achieved = replace(achieved, status=wait_for_run(client, watch).status)
        self.log.info("%s", achieved)
        return {
            "run_id": self.run_id,
            "status": achieved.status.value if achieved.status else None,
            "accepted": achieved.accepted,
            "reason": achieved.reason,
        }


class SimResumeRunOperator(SimOperator):
    """Answer a run that waits for a person, whoever started it; wait for its end with ``SimJobSensor``.

    Sim takes the answer to a pause once. A retry of the task, and a request whose answer was lost, look at the pause
    first: an answer that was taken is not sent again, and the task succeeds. Where somebody else has answered before,
    in Sim or by another task, the task fails, without retries.

    Returns ``run_id`` (the run keeps its id), ``context_id`` and ``status`` (of the run just after, or None).
    XComs beside it: ``run_id``, ``run_url``, ``workflow_url``, ``approval_url``.

    :param workflow_id: the run's workflow. (templated)
    :param run_id: the run. (templated)
    :param context_id: the pause point; default: the only one that waits for a person. (templated)
    :param input: the answer: the fields that the workflow's block asks for, as a dict. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param poll_interval: seconds or timedelta between looks.
    :param timeout: seconds or timedelta to wait for the run to pause, if it doesn't wait yet.
    :param retry_args: as for :class:`~airflow_provider_sim.operators.sim.SimExecuteWorkflowOperator`.
    :raises SimPauseAnsweredError: somebody else has answered it, or the run is over.
    :raises SimInputError: the run waits at several pauses and ``context_id`` names none; they are listed.
    :raises SimRunTimeoutError: the run didn't wait for a person in time.
    :raises SimRunNotFoundError: there is no such run.
    """

    template_fields: Sequence[str] = ("workflow_id", "run_id", "context_id", "input", "sim_conn_id")
    template_fields_renderers = {"input": "json"}
    operator_extra_links = (SimRunLink(), SimWorkflowLink(), SimApprovalLink())
    ui_color = "#ede9fe"
    argument_rules: ClassVar[Mapping[str, Rule]] = _RULES

    def __init__(
        self,
        *,
        workflow_id: str,
        run_id: str,
        context_id: str | None = None,
        input: Any = None,
        sim_conn_id: str = SimHook.default_conn_name,
        poll_interval: float | timedelta = 5.0,
        timeout: float | timedelta = 300.0,
        retry_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.context_id = context_id
        self.input = input
        self.sim_conn_id = sim_conn_id
        self.poll_interval = seconds(poll_interval)
        self.timeout = timeout
        self.retry_args = retry_args
        self._check_constants()

    def execute(self, context: Context) -> dict[str, Any]:
        """Wait for the pause and answer it."""
        from airflow_provider_sim.polling.pause import PauseAnswer
        from airflow_provider_sim.task.input import input_fields
        from airflow_provider_sim.task.run_store import PauseAnswerStore

        self._check_rendered()
        patience = seconds(self.timeout)
        with SimHook(self.sim_conn_id, retry_args=self.retry_args) as hook:
            client = hook.get_conn()
            if self.do_xcom_push:
                context["ti"].xcom_push(key="run_id", value=self.run_id)
                push_links(
                    context,
                    client.base_url,
                    workflow_id=self.workflow_id,
                    run_id=self.run_id,
                    workspace_id=hook.workspace_of(self.workflow_id),
                )
            ledger = PauseAnswerStore(context, workflow_id=self.workflow_id, run_id=self.run_id, server=client.base_url)
            answer = PauseAnswer(
                workflow_id=self.workflow_id,
                run_id=self.run_id,
                context_id=self.context_id or None,
                input=None if self.input is None else input_fields(self.input, workflow_id=self.workflow_id),
                poll_interval=self.poll_interval,
                deadline=time.time() + patience,
                note=ledger.note,
                earlier=self._earlier(context, client, ledger),
            )
            point = answer.give(client)
            status = self._status(client)
        self.log.info("Pause %s of run %s is answered; the run is %s.", point, self.run_id, status or "not to be seen")
        return {"run_id": self.run_id, "context_id": point, "status": status}

    def _earlier(self, context: Context, client: SimClient, ledger: PauseAnswerStore) -> str | None:
        """The pause that an earlier try may have answered.

        :raises SimInputError: it can't be known which, and the next one must not get its answer.
        """
        from airflow_provider_sim.exceptions import Outcome, SimInputError

        if ledger.keeps or int(getattr(context["ti"], "try_number", 1) or 1) == 1:
            return ledger.earlier()
        if self.context_id:
            return self.context_id
        if client.get_paused_run(self.workflow_id, self.run_id).resumed_count:
            raise SimInputError(
                f"Run {self.run_id!r} of workflow {self.workflow_id!r} was answered before, perhaps by an earlier"
                " try of this task, which Airflow before 3.3 can't tell. Name the pause by context_id, so"
                " that a retry can't answer another.",
                workflow_id=self.workflow_id,
                run_id=self.run_id,
                outcome=Outcome.NEVER_SENT,
            )
        return None

    def _status(self, client: SimClient) -> str | None:
        from airflow_provider_sim.client import NO_RETRY
        from airflow_provider_sim.exceptions import SimError

        try:
            return client.get_workflow_run(self.workflow_id, self.run_id, retry=NO_RETRY).status.value
        except SimError:
            return None
