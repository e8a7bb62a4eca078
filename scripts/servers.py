"""Temporary PostgreSQL and Redis servers for an Airflow, in temporary directories and on free ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy

DIES_WITH_US = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
"""Prefix of commands whose processes must not outlive this one."""
START_PATIENCE = 60.0


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgresql_programs() -> Path | None:
    """Return the directory of the PostgreSQL server's programs, if installed."""
    on_path = shutil.which("initdb")
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return Path(on_path).parent if on_path else packaged[-1].parent if packaged else None


@contextlib.contextmanager
def postgresql(log: Path) -> Iterator[tuple[str, Path]]:
    """Run a PostgreSQL server; yield the URI of an empty database and the data directory.

    :raises RuntimeError: it isn't installed or doesn't start.
    """
    programs = postgresql_programs()
    if programs is None:
        raise RuntimeError("No PostgreSQL server is installed; Debian's package is called postgresql.")
    # It doesn't run as root, and its directory needs a short path that its user may access.
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="airflow-postgresql-", ignore_cleanup_errors=True) as folder:
        if owner:
            shutil.chown(folder, "postgres", "postgres")
        port = free_port()
        data = f"{folder}/data"
        how: dict[str, Any] = {"cwd": folder, **owner, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        with log.open("wb") as output:
            subprocess.run(
                [programs / "initdb", "-D", data, "-U", "airflow", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
                check=True,
                stdout=output,
                **how,
            )
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": port,
                "unix_socket_directories": folder,
                "fsync": "off",
                "synchronous_commit": "off",
                "full_page_writes": "off",
                "max_connections": 300,
            }
            flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
            command = [*DIES_WITH_US, programs / "postgres", "-D", data, *flags]
            server = subprocess.Popen(command, stdout=output, start_new_session=True, **how)
        try:
            uri = f"postgresql+psycopg2://airflow@127.0.0.1:{port}"
            _await(server, lambda: _has_database(f"{uri}/postgres"), f"PostgreSQL doesn't start; see {log}")
            yield f"{uri}/airflow", Path(data)
        finally:
            server.send_signal(signal.SIGINT)  # without waiting for its clients
            server.wait(timeout=60)


def _has_database(uri: str) -> bool:
    """Create the database, if the server is ready."""
    engine = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.pool.NullPool)
    with contextlib.suppress(sqlalchemy.exc.OperationalError), engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE DATABASE airflow"))
        return True
    return False


@contextlib.contextmanager
def redis(home: Path) -> Iterator[str]:
    """Run a Redis server without persistence; yield its URI.

    :param home: directory for ``redis.log`` and ``redis-monitor.log``, which has all commands.
    :raises RuntimeError: it isn't installed or doesn't start.
    """
    if not shutil.which("redis-server"):
        raise RuntimeError("No Redis server is installed; Debian's package is called redis-server.")
    port = str(free_port())
    with tempfile.TemporaryDirectory(prefix="airflow-redis-") as folder, contextlib.ExitStack() as stack:
        settings = ["--bind", "127.0.0.1", "--port", port, "--dir", folder, "--save", "", "--appendonly", "no"]
        server = stack.enter_context(_program(home / "redis.log", "redis-server", *settings))
        _await(server, lambda: _answers_ping(port), f"Redis doesn't start; see {home / 'redis.log'}")
        stack.enter_context(_program(home / "redis-monitor.log", "redis-cli", "-p", port, "monitor"))
        yield f"redis://127.0.0.1:{port}/0"


def _answers_ping(port: str) -> bool:
    return subprocess.run(["redis-cli", "-p", port, "ping"], capture_output=True).returncode == 0


@contextlib.contextmanager
def _program(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*DIES_WITH_US, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def _await(server: subprocess.Popen[bytes], is_up: Callable[[], bool], message: str) -> None:
    until = time.monotonic() + START_PATIENCE
    while not is_up():
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError(message)
        time.sleep(0.1)
