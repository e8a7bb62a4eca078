"""The flows as blocking methods, for the sync client and the hook."""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from airflow_provider_sim.client.models import AsyncExecutionResult, WorkflowExecutionResult
from airflow_provider_sim.client.start import Execute, StartFlows

if TYPE_CHECKING:
    from airflow_provider_sim.client.sync_client import SimClient, WorkflowStream

    _Execute = Execute[WorkflowExecutionResult, AsyncExecutionResult, WorkflowStream]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Flow = Callable[Concatenate[StartFlows, _P], Coroutine[Any, Any, _T]]


def perform(flow: Awaitable[_T]) -> _T:
    """Return the result of a flow that never suspends, as all of a sync client."""
    try:
        flow.__await__().send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    raise AssertionError("a flow of the sync client was suspended")


def each(values: AsyncIterator[_T]) -> Iterator[_T]:
    """Yield the values of an asynchronous iterator that never suspends."""
    with contextlib.suppress(StopAsyncIteration):
        while True:
            yield perform(anext(values))


def _sync(flow: _Flow[_P, _T]) -> Callable[Concatenate[SyncMethods, _P], _T]:
    """Return the method that performs a flow, with the flow's signature and docstring."""

    @functools.wraps(flow)
    def method(self: SyncMethods, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return perform(flow(StartFlows(self._client()), *args, **kwargs))

    return method


class SyncMethods(ABC):
    """Sim's API, as blocking methods."""

    @abstractmethod
    def _client(self) -> SimClient:
        """Return the client that performs them."""

    execute_workflow: _Execute = cast(Any, _sync)(StartFlows.execute_workflow)
    execute_with_retry: _Execute = cast(Any, _sync)(StartFlows.execute_with_retry)
    start_workflow_run: _Execute = cast(Any, _sync)(StartFlows.start_workflow_run)
    get_workflow_run = _sync(StartFlows.get_workflow_run)
    get_workflow_result = _sync(StartFlows.get_workflow_result)
    get_output = _sync(StartFlows.get_output)
    get_run_output = _sync(StartFlows.get_run_output)
    list_workflow_runs = _sync(StartFlows.list_workflow_runs)
    list_logs = _sync(StartFlows.list_logs)
    cancel_workflow_run = _sync(StartFlows.cancel_workflow_run)
    stop_workflow_run = _sync(StartFlows.stop_workflow_run)
    get_paused_run = _sync(StartFlows.get_paused_run)
    resume_workflow_run = _sync(StartFlows.resume_workflow_run)
    get_job_status = _sync(StartFlows.get_job_status)
    get_workflow_status = _sync(StartFlows.get_workflow_status)
    validate_workflow = _sync(StartFlows.validate_workflow)
    get_workflow = _sync(StartFlows.get_workflow)
    list_workflows = _sync(StartFlows.list_workflows)
    get_deployment = _sync(StartFlows.get_deployment)
    list_workflow_versions = _sync(StartFlows.list_workflow_versions)
    deploy_workflow = _sync(StartFlows.deploy_workflow)
    undeploy_workflow = _sync(StartFlows.undeploy_workflow)
    rollback_workflow = _sync(StartFlows.rollback_workflow)
    list_workspaces = _sync(StartFlows.list_workspaces)
    get_usage_limits = _sync(StartFlows.get_usage_limits)
    get_billing_status = _sync(StartFlows.get_billing_status)
    get_usage = _sync(StartFlows.get_usage)
    upload_file = _sync(StartFlows.upload_file)
    list_files = _sync(StartFlows.list_files)
    delete_file = _sync(StartFlows.delete_file)
    download_workspace_file = _sync(StartFlows.download_workspace_file)
