"""Which Airflow the tests run on, and what is tested only where it has come."""

from __future__ import annotations

import pytest
from airflow import __version__
from packaging.version import Version

AIRFLOW = Version(__version__)


def needs_airflow(version: str, what: str) -> pytest.MarkDecorator:
    """Skip a test where Airflow doesn't have yet what it tests.

    :param what: came with that version.
    """
    return pytest.mark.skipif(Version(version) > AIRFLOW, reason=f"Airflow {version} brought {what}")
