"""A local Sim server for demos, for this package's tests and for the tests of your DAGs.

It shares no code with the client, so that both cannot have the same mistake. It needs Starlette and uvicorn, which are
part of Airflow 3; on Airflow 2: ``pip install 'airflow-provider-sim[emulator]'``.
"""

from __future__ import annotations

try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:  # Airflow 2
    raise ImportError(
        f"The Sim emulator needs Starlette and uvicorn ({error}). Install them with:"
        " pip install 'airflow-provider-sim[emulator]'"
    ) from error

from airflow_provider_sim.emulator.fault_rules import FaultRule, Hold, Match
from airflow_provider_sim.emulator.server import SimEmulator
from airflow_provider_sim.emulator.workflows import BlockError, Pausing, ResponseBlock

__all__ = ["BlockError", "FaultRule", "Hold", "Match", "Pausing", "ResponseBlock", "SimEmulator"]
