"""OpenLineage facets of a workflow and a run; imports OpenLineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.openlineage.extractors.base import OperatorLineage
from attrs import define
from openlineage.client.facet_v2 import JobFacet, RunFacet, error_message_run, external_query_run

from airflow_provider_sim.client import run_url, workflow_url

if TYPE_CHECKING:
    from airflow_provider_sim.client import WorkflowRun


@define
class SimWorkflowJobFacet(JobFacet):
    """The workflow that a task runs, and the URL of its page in Sim."""

    workflowId: str
    url: str | None = None


@define
class SimRunFacet(RunFacet):
    """The run that a task has started or waited for; ``startedBy`` is ``api``, ``schedule`` ..."""

    workflowId: str
    runId: str
    status: str
    startedBy: str | None = None
    startedAt: str | None = None
    endedAt: str | None = None
    durationMs: float | None = None
    costUsd: float | None = None
    url: str | None = None


def lineage_of(workflow_id: str, run: WorkflowRun | None, base_url: str | None) -> OperatorLineage[Any, Any]:
    """Return the facets of a task; ``run`` and ``base_url`` are None until they are known."""
    url = base_url and workflow_url(base_url, workflow_id, None)
    lineage: OperatorLineage[Any, Any] = OperatorLineage(
        job_facets={"simWorkflow": SimWorkflowJobFacet(workflowId=workflow_id, url=url)}
    )
    if run is None or run.run_id is None:
        return lineage
    lineage.run_facets["simRun"] = SimRunFacet(
        workflowId=workflow_id,
        runId=run.run_id,
        status=run.status.value,
        startedBy=run.trigger,
        startedAt=run.started_at,
        endedAt=run.ended_at,
        durationMs=run.duration_ms,
        costUsd=run.cost_usd,
        url=base_url and run_url(base_url, workflow_id, run.run_id, None),
    )
    lineage.run_facets["externalQuery"] = external_query_run.ExternalQueryRunFacet(run.run_id, base_url or "sim")
    if run.error is not None:
        lineage.run_facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(str(run.error), "SIM")
    return lineage
