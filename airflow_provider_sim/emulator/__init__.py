"""A local Sim server, for demos, for this package's tests and for your own DAGs' tests.

It is written from what Sim's API does, not from our client: the two share no code, so that they can't share a mistake.
Needs Starlette and uvicorn, which Airflow 3 carries; elsewhere: ``pip install 'airflow-provider-sim[emulator]'``.
"""

from __future__ import annotations

try:
    import starlette
    import uvicorn
except ImportError as error:  # Airflow 2
    raise ImportError(
        f"The Sim emulator needs Starlette and uvicorn ({error}). Install them with:"
        " pip install 'airflow-provider-sim[emulator]'"
    ) from error

from airflow_provider_sim.emulator.orders import Hold, Match, Order
from airflow_provider_sim.emulator.server import SimEmulator
from airflow_provider_sim.emulator.workflows import BlockError, Pausing, ResponseBlock

__all__ = ["BlockError", "Hold", "Match", "Order", "Pausing", "ResponseBlock", "SimEmulator"]

del starlette, uvicorn
