"""All places where an Airflow stores or returns data."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import airflow
import sqlalchemy
import yaml
from cryptography.fernet import Fernet

from scripts.real_airflow import RealAirflow, TaskInstance

Place = tuple[str, bytes]
"""Name and content of a place."""

DATABASE = "database"
"""Prefix of the names of database files."""


def files(of: RealAirflow) -> Iterator[Place]:
    """Yield all files of Airflow and its database."""
    for path in _below(of.home):
        yield str(path.relative_to(of.home)), path.read_bytes()
    if of.data != of.home:
        for path in _below(of.data):
            with suppress(FileNotFoundError):  # the server is at work
                yield f"{DATABASE}/{path.relative_to(of.data)}", path.read_bytes()


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def columns(of: RealAirflow) -> Iterator[Place]:
    """Yield all values of all database tables including Celery's results, decompressed."""
    for table in sqlalchemy.inspect(of.engine).get_table_names():
        for row in of.query(f'SELECT * FROM "{table}"'):
            for name, value in row._mapping.items():
                if value is not None:
                    yield f"{table}.{name}", _unpacked(value)


def _unpacked(value: object) -> bytes:
    raw = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
    with suppress(zlib.error):
        return zlib.decompress(raw)
    return raw


def triggers(of: RealAirflow) -> Iterator[Place]:
    """Yield the decrypted arguments of waiting triggers."""
    key = re.search(r"^fernet_key = (.+)$", (of.home / "airflow.cfg").read_text(), re.MULTILINE)
    assert key is not None
    fernet = Fernet(key[1].strip())
    for row in of.query('SELECT classpath, kwargs FROM "trigger"'):
        yield row.classpath, row.kwargs.encode() if row.kwargs.startswith("{") else fernet.decrypt(row.kwargs)


def messages(of: RealAirflow) -> Iterator[Place]:
    """Yield the messages to Celery's workers, decoded."""
    for number, line in enumerate((of.home / "redis-monitor.log").read_bytes().splitlines()):
        for body in re.findall(rb'\\"body\\": \\"([A-Za-z0-9+/=]+)\\"', line):
            yield f"message in line {number}", base64.b64decode(body)


def answers(of: RealAirflow, run_id: str, dag_ids: Iterable[str]) -> Iterator[Place]:
    """Yield the responses to all GET requests of the REST API and the UI's API without further parameters.

    :param run_id: ID of the DAG runs.
    """
    asked: dict[str, None] = {}
    for ti in of.task_instances(run_id):
        if ti.dag_id in dag_ids:
            for xcom_key in ("return_value", "run_id", "run_url"):
                asked.update(dict.fromkeys(_addresses(ti, xcom_key)))
    for address in asked:
        yield address, of.get(address).content


def _addresses(ti: TaskInstance, xcom_key: str) -> Iterator[str]:
    """Yield the addresses for an XCom, its task and its DAG."""
    names = {
        "dag_id": ti.dag_id,
        "version_number": 1,
        "dag_run_id": ti.run_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": ti.map_index,
        "try_number": ti.try_number,
        "task_try_number": ti.try_number,
        "xcom_key": xcom_key,
        "connection_id": "sim_stored",
    }
    for path in _paths():
        if set(re.findall(r"{(\w+)}", path)) <= set(names):
            which = f"?map_index={ti.map_index}" if "{task_id}" in path else ""
            yield path.format(**names) + which


@cache
def _paths() -> list[str]:
    """Return the paths of GET requests, except login and logout."""
    described_in = Path(airflow.__path__[0]) / "api_fastapi" / "core_api" / "openapi"
    files = [described_in / name for name in ("v2-rest-api-generated.yaml", "_private_ui.yaml")]
    described = [yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["paths"] for file in files]
    return [path for paths in described for path, how in paths.items() if "get" in how and "/auth/" not in path]
