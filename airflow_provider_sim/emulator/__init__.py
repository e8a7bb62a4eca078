"""A local Sim server, for demos, for this package's tests and for your own DAGs' tests.

It is written from what Sim's API does, not from our client: the two share no code, so that they can't share a mistake.
Needs Starlette and uvicorn, which Airflow 3 carries; elsewhere: ``pip install 'airflow-provider-sim[emulator]'``.
They are imported when something of the emulator is first asked for, since every pytest imports this package for its
plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sim.emulator.orders import Hold, Match, Order
    from airflow_provider_sim.emulator.server import SimEmulator
    from airflow_provider_sim.emulator.workflows import BlockError, Pausing, ResponseBlock

__all__ = ["BlockError", "Hold", "Match", "Order", "Pausing", "ResponseBlock", "SimEmulator"]

_MODULES = {
    "BlockError": "workflows",
    "Hold": "orders",
    "Match": "orders",
    "Order": "orders",
    "Pausing": "workflows",
    "ResponseBlock": "workflows",
    "SimEmulator": "server",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for.

    :raises ImportError: Starlette or uvicorn is missing.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:  # Airflow 2
        raise ImportError(
            f"The Sim emulator needs Starlette and uvicorn ({error}). Install them with:"
            " pip install 'airflow-provider-sim[emulator]'"
        ) from error
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
