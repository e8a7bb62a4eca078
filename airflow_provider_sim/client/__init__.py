"""Client for Sim over HTTP, sync and asyncio: the names that the rest of the package imports.

Each name is imported on first use: parsing a DAG file takes a few light ones, and neither requests nor httpx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sim.client.api.errors import (
        CONCURRENCY_LIMIT as CONCURRENCY_LIMIT,
        EXECUTION_LIMIT as EXECUTION_LIMIT,
        is_rejection as is_rejection,
    )
    from airflow_provider_sim.client.api.files import (
        FilesOfRequest as FilesOfRequest,
        OutputFile as OutputFile,
        map_files as map_files,
    )
    from airflow_provider_sim.client.api.http import (
        ADDRESS_BUCKET as ADDRESS_BUCKET,
        ADDRESS_CAPACITY as ADDRESS_CAPACITY,
        RATE_WINDOW as RATE_WINDOW,
    )
    from airflow_provider_sim.client.api.resources import (
        died_with_its_connection as died_with_its_connection,
        display_marks as display_marks,
    )
    from airflow_provider_sim.client.api.v2 import (
        EXECUTE_BUCKET as EXECUTE_BUCKET,
        LISTED_STATUSES as LISTED_STATUSES,
        LOGS_BUCKET as LOGS_BUCKET,
        LOGS_PAGE as LOGS_PAGE,
        RUN_BUCKET as RUN_BUCKET,
        RUNS_BUCKET as RUNS_BUCKET,
        RUNS_PAGE as RUNS_PAGE,
        STARTED_BY_API as STARTED_BY_API,
        WORKFLOW_BUCKET as WORKFLOW_BUCKET,
        named_workflows as named_workflows,
    )
    from airflow_provider_sim.client.async_client import (
        AsyncSimClient as AsyncSimClient,
        limited as limited,
    )
    from airflow_provider_sim.client.ids import (
        check_block_ids as check_block_ids,
        check_run_id as check_run_id,
        check_workflow_id as check_workflow_id,
        selectors_of as selectors_of,
    )
    from airflow_provider_sim.client.limits import (
        MAX_RUN_TIMEOUT as MAX_RUN_TIMEOUT,
        RETRY_MINIMUMS as RETRY_MINIMUMS,
        is_retry_setting as is_retry_setting,
    )
    from airflow_provider_sim.client.models import (
        AsyncExecutionResult as AsyncExecutionResult,
        BillingStatus as BillingStatus,
        Cancellation as Cancellation,
        Deployment as Deployment,
        Page as Page,
        PausePoint as PausePoint,
        RateLimit as RateLimit,
        RateLimitInfo as RateLimitInfo,
        RunOutput as RunOutput,
        RunStatus as RunStatus,
        UsageLimits as UsageLimits,
        Workflow as Workflow,
        WorkflowExecutionResult as WorkflowExecutionResult,
        WorkflowRun as WorkflowRun,
        Workspace as Workspace,
    )
    from airflow_provider_sim.client.retry import (
        NO_RETRY as NO_RETRY,
        RetryPolicy as RetryPolicy,
    )
    from airflow_provider_sim.client.settings import (
        DEFAULT_BASE_URL as DEFAULT_BASE_URL,
        DEFAULT_TIMEOUT as DEFAULT_TIMEOUT,
        SYNC_TIMEOUT as SYNC_TIMEOUT,
        ClientSettings as ClientSettings,
    )
    from airflow_provider_sim.client.steps import (
        StartStoppedError as StartStoppedError,
        StopToken as StopToken,
        new_run_id as new_run_id,
    )
    from airflow_provider_sim.client.stream import (
        StreamBlockError as StreamBlockError,
        StreamChunk as StreamChunk,
        StreamChunkReset as StreamChunkReset,
        StreamEnd as StreamEnd,
        StreamProgress as StreamProgress,
        check_selected as check_selected,
        selection_lost as selection_lost,
    )
    from airflow_provider_sim.client.sync_client import (
        SimClient as SimClient,
        WorkflowStream as WorkflowStream,
    )
    from airflow_provider_sim.client.urls import (
        approval_url as approval_url,
        run_url as run_url,
        workflow_url as workflow_url,
    )

_NAMES = {
    "api.errors": "CONCURRENCY_LIMIT EXECUTION_LIMIT is_rejection",
    "api.files": "FilesOfRequest OutputFile map_files",
    "api.http": "ADDRESS_BUCKET ADDRESS_CAPACITY RATE_WINDOW",
    "api.resources": "died_with_its_connection display_marks",
    "api.v2": (
        "EXECUTE_BUCKET LISTED_STATUSES LOGS_BUCKET LOGS_PAGE RUNS_BUCKET RUNS_PAGE RUN_BUCKET STARTED_BY_API "
        "WORKFLOW_BUCKET named_workflows"
    ),
    "async_client": "AsyncSimClient limited",
    "ids": "check_block_ids check_run_id check_workflow_id selectors_of",
    "limits": "MAX_RUN_TIMEOUT RETRY_MINIMUMS is_retry_setting",
    "models": (
        "AsyncExecutionResult BillingStatus Cancellation Deployment Page PausePoint RateLimit "
        "RateLimitInfo RunOutput RunStatus UsageLimits Workflow WorkflowExecutionResult WorkflowRun "
        "Workspace"
    ),
    "retry": "NO_RETRY RetryPolicy",
    "settings": "ClientSettings DEFAULT_BASE_URL DEFAULT_TIMEOUT SYNC_TIMEOUT",
    "steps": "StartStoppedError StopToken new_run_id",
    "stream": ("StreamBlockError StreamChunk StreamChunkReset StreamEnd StreamProgress check_selected selection_lost"),
    "sync_client": "SimClient WorkflowStream",
    "urls": "approval_url run_url workflow_url",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_MODULE_OF)
