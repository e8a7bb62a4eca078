"""Client for Sim over HTTP, sync and asyncio: the names that the rest of the package imports.

Each name is imported on first use: parsing a DAG file takes a few light ones, and no HTTP library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sim.client.api.errors import *
    from airflow_provider_sim.client.api.files import *
    from airflow_provider_sim.client.api.http import *
    from airflow_provider_sim.client.api.resources import *
    from airflow_provider_sim.client.api.v2 import *
    from airflow_provider_sim.client.async_client import *
    from airflow_provider_sim.client.checks import *
    from airflow_provider_sim.client.methods import *
    from airflow_provider_sim.client.models import *
    from airflow_provider_sim.client.retry import *
    from airflow_provider_sim.client.settings import *
    from airflow_provider_sim.client.stream import *
    from airflow_provider_sim.client.sync_client import *
    from airflow_provider_sim.client.workspace_models import *

_NAMES = {
    "api.errors": "CONCURRENCY_LIMIT is_rejection",
    "api.files": "OutputFile check_file fits_in_request inline_file is_inline_file map_files",
    "api.http": "ADDRESS_BUCKET ADDRESS_CAPACITY RATE_WINDOW",
    "api.resources": "died_with_its_connection display_marks",
    "api.v2": (
        "EXECUTE_BUCKET LISTED_STATUSES LOGS_BUCKET LOGS_PAGE RUNS_BUCKET RUNS_PAGE RUN_BUCKET STARTED_BY_API "
        "WORKFLOW_BUCKET named_workflows"
    ),
    "async_client": "AsyncSimClient limited",
    "checks": (
        "MAX_RUN_TIMEOUT RETRY_MINIMUMS SYNC_TIMEOUT check_block_ids check_run_id check_workflow_id is_retry_setting "
        "selectors_of"
    ),
    "methods": "SyncMethods",
    "models": "AsyncExecutionResult RateLimitInfo RunOutput RunStatus WorkflowExecutionResult WorkflowRun",
    "retry": "NO_RETRY RetryPolicy StartStoppedError StopToken new_run_id",
    "settings": "ClientSettings DEFAULT_BASE_URL DEFAULT_TIMEOUT approval_url run_url workflow_url",
    "stream": ("StreamBlockError StreamChunk StreamChunkReset StreamEnd StreamProgress check_selected selection_lost"),
    "sync_client": "SimClient WorkflowStream",
    "workspace_models": (
        "BillingStatus Cancellation Deployment Page PausePoint RateLimit UsageLimits Workflow Workspace WorkspaceFile"
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
