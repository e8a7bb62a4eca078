"""Sim's two APIs without I/O: a function for each endpoint returns a :class:`.http.Call`.

Each module is imported on first use: starting and polling runs needs few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sim.client.api import (
        errors as errors,
        files as files,
        legacy as legacy,
        v2 as v2,
        workspace_files as workspace_files,
    )


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return importlib.import_module(f"{__name__}.{name}")
