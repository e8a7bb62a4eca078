"""What OpenLineage is told of a task's run, where its provider is installed; light enough for DAG parsing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sim.client import SimClient, WorkflowRun


class OpenLineageMixin:
    """For operators and sensors: the workflow as a job's facet, the run as a run's facets.

    The methods are those that OpenLineage's provider looks for; nobody else calls them.
    """

    workflow_id: str
    _lineage_base_url: str | None = None
    _lineage_run: WorkflowRun | None = None

    def _tell_lineage(self, client: SimClient, run: WorkflowRun) -> None:
        """Remember the run that the task is about."""
        self._lineage_base_url, self._lineage_run = client.base_url, run

    def get_openlineage_facets_on_start(self) -> Any:
        """The workflow; there is no run yet."""
        return self._lineage()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The workflow, and the run that has completed.

        :param task_instance: OpenLineage's.
        """
        return self._lineage()

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """The workflow, and the run, if there is one.

        :param task_instance: OpenLineage's.
        """
        return self._lineage()

    def _lineage(self) -> Any:
        from airflow_provider_sim.task.lineage_facets import lineage_of

        return lineage_of(self.workflow_id, self._with_cost(), self._lineage_base_url)

    def _with_cost(self) -> WorkflowRun | None:
        """The run; one that was held open is asked for once more, since its answer doesn't tell the cost."""
        from airflow_provider_sim.client import NO_RETRY
        from airflow_provider_sim.exceptions import SimError

        run, hook = self._lineage_run, getattr(self, "hook", None)
        if run is None or run.run_id is None or run.cost_usd is not None or hook is None:
            return run
        try:
            with hook.new_client(timeout=5.0, retry=NO_RETRY) as client:
                seen: WorkflowRun = client.get_workflow_run(self.workflow_id, run.run_id)
        except SimError:
            return run
        return seen
