"""Every place where an Airflow keeps what it was told."""

from __future__ import annotations

import configparser
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from cryptography.fernet import Fernet

Place = tuple[str, bytes]
"""Where it is, and what is there."""


def files(home: Path) -> Iterator[Place]:
    """Every file in an Airflow's folder: settings, logs, and the database as it lies on the disk."""
    for path in sorted(home.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(home)), path.read_bytes()


def columns(home: Path) -> Iterator[Place]:
    """Every value of every column of every table of the metadata database; packed ones unpacked."""
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            rows = database.execute(f'SELECT * FROM "{table}"')
            names = [column for column, *_ in rows.description]
            for row in rows:
                for name, value in zip(names, row, strict=True):
                    if value is not None:
                        yield f"{table}.{name}", _unpacked(value)


def _unpacked(value: object) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode()
    with suppress(zlib.error):
        return zlib.decompress(raw)
    return raw


def triggers(home: Path) -> Iterator[Place]:
    """The arguments of the triggers that wait at this moment; deciphered, unless Airflow has written them openly."""
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    settings.read(home / "airflow.cfg")
    fernet = Fernet(settings["core"]["fernet_key"].strip())
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        for classpath, arguments in database.execute('SELECT classpath, kwargs FROM "trigger"'):
            yield classpath, arguments.encode() if arguments.startswith("{") else fernet.decrypt(arguments)
