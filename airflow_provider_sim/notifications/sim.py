"""Notifier that starts a Sim workflow."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.notifier import BaseNotifier

from airflow_provider_sim import arguments
from airflow_provider_sim.client import RetryPolicy

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

MAX_EXCEPTION_LENGTH = 10_000  # characters; longer exceptions are truncated
_RETRY = RetryPolicy(max_retries=1, max_delay=1.0, max_retry_after=1.0)


class SimNotifier(BaseNotifier):
    """Start a workflow without waiting for it, as the callback of a task, a DAG or a deadline.

    The workflow's input contains ``dag_id``, ``dag_run_id``, ``task_id``, ``map_index``, ``try_number``, ``state``,
    ``exception`` (type and message, masked as in logs), ``log_url`` and ``reason`` (Airflow's, for a DAG's callback;
    the missed time, for a deadline); None where Airflow doesn't provide a value. Sim drops fields that the workflow's
    Start block doesn't declare.

    It never fails the callback: errors are warnings in the log.

    ::

        SimExecuteWorkflowOperator(..., on_failure_callback=SimNotifier(workflow_id="..."))
        DeadlineAlert(..., callback=AsyncCallback(SimNotifier, kwargs={"workflow_id": "..."}))  # Airflow 3.1 and later

    :param workflow_id: the workflow to run (templated).
    :param input: further fields of the input, which override those above (templated).
    :param sim_conn_id: the connection (templated).
    :param timeout: seconds for the start, including retries; default 5.
    :raises SimInputError: ``workflow_id`` or ``timeout`` is invalid.
    """

    template_fields = ("workflow_id", "input", "sim_conn_id")

    def __init__(
        self,
        *,
        workflow_id: str,
        input: Mapping[str, Any] | None = None,
        sim_conn_id: str = "sim_default",
        timeout: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id
        self.input = dict(input or {})
        self.sim_conn_id = sim_conn_id
        self.timeout = timeout
        rules = {"workflow_id": arguments.workflow_id, "timeout": arguments.duration}
        arguments.check_arguments(rules, vars(self), templated=self.template_fields)

    def __call__(self, *args: Any) -> None:
        with self._log_errors():
            # Rendering writes into the notifier, and the next task's callback needs the templates.
            super(SimNotifier, copy.copy(self)).__call__(*args)

    def __await__(self) -> Generator[Any, Any, None]:
        """Start the workflow on an event loop, as Airflow's triggerer does for deadlines."""
        with self._log_errors():
            yield from super().__await__()

    def notify(self, context: Context) -> None:
        from airflow_provider_sim.hooks.sim import SimHook

        with SimHook(self.sim_conn_id) as hook, hook.new_client(timeout=self.timeout, retry=_RETRY) as client:
            self._log_start(self._start(client, context))

    async def async_notify(self, context: Context) -> None:
        from airflow_provider_sim.client import AsyncSimClient
        from airflow_provider_sim.hooks.sim import SimHook

        settings = await SimHook(self.sim_conn_id).get_async_settings()
        settings = replace(settings, timeout=min(self.timeout, settings.timeout), retry=_RETRY)
        async with AsyncSimClient.from_settings(settings) as client:
            self._log_start(await self._start(client, context))

    def _start(self, client: Any, context: Mapping[str, Any]) -> Any:
        given, deadline = {**_default_input(context), **self.input}, time.time() + self.timeout
        options = {"async_execution": True, "timeout": self.timeout, "deadline": deadline}
        return client.start_workflow_run(self.workflow_id, given, **options)

    def _log_start(self, started: Any) -> None:
        log.info("Notification: started run %s of workflow %s.", started.run_id, self.workflow_id)

    @contextmanager
    def _log_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            log.warning("Notification failed: workflow %s was not started. %s", self.workflow_id, error)


def _default_input(context: Mapping[str, Any]) -> dict[str, Any]:
    """The fields from a callback's context; that of a deadline has the DAG run as a dict of Airflow's API, no task."""
    ti, dag_run = context.get("ti"), context.get("dag_run")
    state, missed = _first(ti, "state") or _first(dag_run, "state"), _first(context.get("deadline"), "deadline_time")
    return {
        "dag_id": _first(ti, "dag_id") or _first(context.get("dag"), "dag_id") or _first(dag_run, "dag_id"),
        "dag_run_id": context.get("run_id") or _first(ti, "run_id") or _first(dag_run, "run_id", "dag_run_id"),
        "task_id": _first(ti, "task_id") or _first(context.get("task"), "task_id"),
        **{name: _first(ti, name) for name in ("map_index", "try_number", "log_url")},
        "state": None if state is None else str(getattr(state, "value", state)),
        "exception": _exception(context.get("exception")),
        "reason": context.get("reason") or (missed and f"deadline missed: {missed}"),
    }


def _first(source: Any, *names: str) -> Any:
    values = (source.get(name) if isinstance(source, Mapping) else getattr(source, name, None) for name in names)
    return next((value for value in values if value is not None), None)


def _exception(error: Any) -> str | None:
    from airflow.providers.common.compat.sdk import redact

    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    return None if error is None else str(redact(text))[:MAX_EXCEPTION_LENGTH]
