"""Version of Airflow, and a marker for tests that need a newer one."""

from __future__ import annotations

import pytest
from airflow import __version__
from packaging.version import Version

AIRFLOW = Version(__version__)


def needs_airflow(version: str, what: str) -> pytest.MarkDecorator:
    """Skip a test on Airflow before ``version``.

    :param what: the feature of that version.
    """
    return pytest.mark.skipif(Version(version) > AIRFLOW, reason=f"Airflow {version} or later is required: {what}")
