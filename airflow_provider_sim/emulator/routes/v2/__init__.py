"""The API ``/api/v2``."""

from airflow_provider_sim.emulator.routes.v2 import execute, files, runs, workspace  # noqa: F401 - they add their routes
from airflow_provider_sim.emulator.routes.v2.middleware import ROUTES

__all__ = ["ROUTES"]
