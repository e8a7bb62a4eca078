"""Act on runs that exist already."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sim.hooks.sim import SimHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class SimCancelRunOperator(BaseOperator):
    """Cancel a run, whoever started it. A run that is over already is left as it is, and the task succeeds.

    Returns ``run_id``, ``status`` (how the run ended, or what it was at the last look), ``accepted`` and ``reason``
    (Sim's own words on the cancelling).

    :param workflow_id: the run's workflow. (templated)
    :param run_id: the run; on old servers a job's id, too. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param wait_for_completion: wait until the run is over: Sim stops it at the end of its present block.
    :param poll_interval: seconds between looks.
    :param timeout: seconds or timedelta to wait at most.
    :param retry_args: as for :class:`~airflow_provider_sim.operators.sim.SimExecuteWorkflowOperator`.
    :raises SimRunNotFoundError: there is no such run.
    :raises SimRunTimeoutError: the run goes on in spite of it.
    :raises SimUnsupportedError: the server is older than v0.5.44.
    """

    template_fields: Sequence[str] = ("workflow_id", "run_id", "sim_conn_id")
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        workflow_id: str,
        run_id: str,
        sim_conn_id: str = SimHook.default_conn_name,
        wait_for_completion: bool = True,
        poll_interval: float = 5.0,
        timeout: float | timedelta = 300.0,
        retry_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.sim_conn_id = sim_conn_id
        self.wait_for_completion = wait_for_completion
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.retry_args = retry_args

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask Sim to cancel the run, and see what becomes of it."""
        from dataclasses import replace

        from airflow_provider_sim.client.dialects.exchange import check_run_id, check_workflow_id
        from airflow_provider_sim.watch import RunWatch, wait_for_run

        check_workflow_id(self.workflow_id)
        check_run_id(self.run_id)
        patience = self.timeout.total_seconds() if isinstance(self.timeout, timedelta) else self.timeout
        with SimHook(self.sim_conn_id, retry_args=self.retry_args) as hook:
            client = hook.get_conn()
            achieved = client.stop_workflow_run(self.workflow_id, self.run_id)
            if self.wait_for_completion and not (achieved.status and achieved.status.is_terminal):
                self.log.info("%s", achieved)
                watch = RunWatch(
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
