"""The API ``/api/v2``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sim.emulator.routes.v2 import execute, runs, workspace  # noqa: F401 - they add their routes
from airflow_provider_sim.emulator.routes.v2.middleware import ROUTES, error_response
from airflow_provider_sim.emulator.routes.wire import ApiError, not_found_page, state_of

__all__ = ["ROUTES", "no_route"]


async def no_route(request: Request) -> Response:
    """Respond to a path without a route."""
    return error_response(ApiError(404, "Not found")) if state_of(request).profile.v2 else not_found_page()
