"""OpenLineage facets of a task; light enough for DAG parsing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sim.client import SimClient, WorkflowRun


class OpenLineageMixin:
    """Methods that OpenLineage's provider calls: the workflow as a job facet, the run as run facets."""

    workflow_id: str
    _lineage_base_url: str | None = None
    _lineage_run: WorkflowRun | None = None

    def _set_lineage(self, client: SimClient, run: WorkflowRun) -> None:
        self._lineage_base_url, self._lineage_run = client.base_url, run

    def get_openlineage_facets_on_start(self) -> Any:
        """Return the facets of the workflow and its run, if there is one."""
        from airflow_provider_sim.task.lineage_facets import lineage_of

        return lineage_of(self.workflow_id, self._run_with_cost(), self._lineage_base_url)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the same; OpenLineage's provider calls it when the task has ended."""
        return self.get_openlineage_facets_on_start()

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    def _run_with_cost(self) -> WorkflowRun | None:
        """Return the run; a sync run is read once more, since the start's response doesn't contain the cost."""
        from airflow_provider_sim.client import NO_RETRY
        from airflow_provider_sim.exceptions import SimError

        run, hook = self._lineage_run, getattr(self, "hook", None)
        if run is None or run.run_id is None or run.cost_usd is not None or hook is None:
            return run
        with suppress(SimError), hook.new_client(timeout=5.0, retry=NO_RETRY) as client:
            run = client.get_workflow_run(self.workflow_id, run.run_id)
        return run
