"""``/api/workflows``, ``/api/jobs`` and their kin, in the shapes of the profile's version."""

from __future__ import annotations

from starlette.routing import Route

from airflow_provider_sim.emulator.surfaces.legacy import account, execute, runs

ROUTES: list[Route] = [
    execute.execute,
    runs.get_execution,
    runs.cancel_execution,
    runs.get_job,
    runs.resume_poll,
    runs.get_paused,
    runs.resume,
    account.get_status,
    account.get_workflow,
    account.get_usage_limits,
]
