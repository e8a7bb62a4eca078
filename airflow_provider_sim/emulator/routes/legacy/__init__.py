"""The legacy API: ``/api/workflows``, ``/api/jobs`` …, as the profile's version has it."""

from airflow_provider_sim.emulator.routes.legacy import execute, resources  # noqa: F401 - they add their routes
from airflow_provider_sim.emulator.routes.legacy.middleware import ROUTES

__all__ = ["ROUTES"]
