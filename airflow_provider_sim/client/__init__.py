"""Client for Sim over HTTP, sync and asyncio: the names that the rest of the package imports.

Each name is imported on first use: parsing a DAG file takes a few light ones, and neither requests nor httpx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sim.client.api.errors import (
        CONCURRENCY_LIMIT as CONCURRENCY_LIMIT,
    )
    from airflow_provider_sim.client.api.errors import (
        EXECUTION_LIMIT as EXECUTION_LIMIT,
    )
    from airflow_provider_sim.client.api.errors import (
        is_rejection as is_rejection,
    )
    from airflow_provider_sim.client.api.files import (
        FilesOfRequest as FilesOfRequest,
    )
    from airflow_provider_sim.client.api.files import (
        OutputFile as OutputFile,
    )
    from airflow_provider_sim.client.api.files import (
        map_files as map_files,
    )
    from airflow_provider_sim.client.api.http import (
        ADDRESS_BUCKET as ADDRESS_BUCKET,
    )
    from airflow_provider_sim.client.api.http import (
        ADDRESS_CAPACITY as ADDRESS_CAPACITY,
    )
    from airflow_provider_sim.client.api.http import (
        RATE_WINDOW as RATE_WINDOW,
    )
    from airflow_provider_sim.client.api.resources import (
        died_with_its_connection as died_with_its_connection,
    )
    from airflow_provider_sim.client.api.resources import (
        display_marks as display_marks,
    )
    from airflow_provider_sim.client.api.v2 import (
        EXECUTE_BUCKET as EXECUTE_BUCKET,
    )
    from airflow_provider_sim.client.api.v2 import (
        LISTED_STATUSES as LISTED_STATUSES,
    )
    from airflow_provider_sim.client.api.v2 import (
        LOGS_BUCKET as LOGS_BUCKET,
    )
    from airflow_provider_sim.client.api.v2 import (
        LOGS_PAGE as LOGS_PAGE,
    )
    from airflow_provider_sim.client.api.v2 import (
        RUN_BUCKET as RUN_BUCKET,
    )
    from airflow_provider_sim.client.api.v2 import (
        RUNS_BUCKET as RUNS_BUCKET,
    )
    from airflow_provider_sim.client.api.v2 import (
        RUNS_PAGE as RUNS_PAGE,
    )
    from airflow_provider_sim.client.api.v2 import (
        STARTED_BY_API as STARTED_BY_API,
    )
    from airflow_provider_sim.client.api.v2 import (
        WORKFLOW_BUCKET as WORKFLOW_BUCKET,
    )
    from airflow_provider_sim.client.api.v2 import (
        named_workflows as named_workflows,
    )
    from airflow_provider_sim.client.async_client import (
        AsyncSimClient as AsyncSimClient,
    )
    from airflow_provider_sim.client.async_client import (
        limited as limited,
    )
    from airflow_provider_sim.client.ids import (
        check_block_ids as check_block_ids,
    )
    from airflow_provider_sim.client.ids import (
        check_run_id as check_run_id,
    )
    from airflow_provider_sim.client.ids import (
        check_workflow_id as check_workflow_id,
    )
    from airflow_provider_sim.client.ids import (
        selectors_of as selectors_of,
    )
    from airflow_provider_sim.client.limits import (
        MAX_RUN_TIMEOUT as MAX_RUN_TIMEOUT,
    )
    from airflow_provider_sim.client.limits import (
        RETRY_MINIMUMS as RETRY_MINIMUMS,
    )
    from airflow_provider_sim.client.limits import (
        is_retry_setting as is_retry_setting,
    )
    from airflow_provider_sim.client.models import (
        AsyncExecutionResult as AsyncExecutionResult,
    )
    from airflow_provider_sim.client.models import (
        BillingStatus as BillingStatus,
    )
    from airflow_provider_sim.client.models import (
        Cancellation as Cancellation,
    )
    from airflow_provider_sim.client.models import (
        Deployment as Deployment,
    )
    from airflow_provider_sim.client.models import (
        Page as Page,
    )
    from airflow_provider_sim.client.models import (
        PausePoint as PausePoint,
    )
    from airflow_provider_sim.client.models import (
        RateLimit as RateLimit,
    )
    from airflow_provider_sim.client.models import (
        RateLimitInfo as RateLimitInfo,
    )
    from airflow_provider_sim.client.models import (
        RunOutput as RunOutput,
    )
    from airflow_provider_sim.client.models import (
        RunStatus as RunStatus,
    )
    from airflow_provider_sim.client.models import (
        UsageLimits as UsageLimits,
    )
    from airflow_provider_sim.client.models import (
        Workflow as Workflow,
    )
    from airflow_provider_sim.client.models import (
        WorkflowExecutionResult as WorkflowExecutionResult,
    )
    from airflow_provider_sim.client.models import (
        WorkflowRun as WorkflowRun,
    )
    from airflow_provider_sim.client.models import (
        Workspace as Workspace,
    )
    from airflow_provider_sim.client.retry import (
        NO_RETRY as NO_RETRY,
    )
    from airflow_provider_sim.client.retry import (
        RetryPolicy as RetryPolicy,
    )
    from airflow_provider_sim.client.settings import (
        DEFAULT_BASE_URL as DEFAULT_BASE_URL,
    )
    from airflow_provider_sim.client.settings import (
        DEFAULT_TIMEOUT as DEFAULT_TIMEOUT,
    )
    from airflow_provider_sim.client.settings import (
        SYNC_TIMEOUT as SYNC_TIMEOUT,
    )
    from airflow_provider_sim.client.settings import (
        ClientSettings as ClientSettings,
    )
    from airflow_provider_sim.client.steps import (
        StartStoppedError as StartStoppedError,
    )
    from airflow_provider_sim.client.steps import (
        StopToken as StopToken,
    )
    from airflow_provider_sim.client.steps import (
        new_run_id as new_run_id,
    )
    from airflow_provider_sim.client.stream import (
        StreamBlockError as StreamBlockError,
    )
    from airflow_provider_sim.client.stream import (
        StreamChunk as StreamChunk,
    )
    from airflow_provider_sim.client.stream import (
        StreamChunkReset as StreamChunkReset,
    )
    from airflow_provider_sim.client.stream import (
        StreamEnd as StreamEnd,
    )
    from airflow_provider_sim.client.stream import (
        StreamProgress as StreamProgress,
    )
    from airflow_provider_sim.client.stream import (
        check_selected as check_selected,
    )
    from airflow_provider_sim.client.stream import (
        selection_lost as selection_lost,
    )
    from airflow_provider_sim.client.sync_client import (
        SimClient as SimClient,
    )
    from airflow_provider_sim.client.sync_client import (
        WorkflowStream as WorkflowStream,
    )
    from airflow_provider_sim.client.urls import (
        approval_url as approval_url,
    )
    from airflow_provider_sim.client.urls import (
        run_url as run_url,
    )
    from airflow_provider_sim.client.urls import (
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
