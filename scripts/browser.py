"""Browser tests of Airflow's pages, with screenshots: ``make browser``.

Starts an Airflow 3 with the example DAGs and an emulator, and runs :mod:`scripts.browser_tour` in a
separate environment with the installed Chromium (Debian: ``apt-get install chromium``); then an Airflow 2.11, which has
another connection form (:mod:`scripts.browser_tour_2`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts import local_airflow
from scripts.bad_connections import bad_connections
from scripts.local_airflow import REPO

WORK = REPO / ".browser"
REQUIREMENTS = REPO / "scripts" / "requirements-browser.txt"
REQUIREMENTS_2 = REPO / "scripts" / "matrix_locks" / "airflow-2.11.txt"
UV = Path(sys.executable).with_name("uv")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CONNECTION, USER = "sim_from_form", "tourist"


def main() -> int:
    """Start the servers, run the tours, and stop the servers."""
    parser = argparse.ArgumentParser(prog="python -m scripts.browser", description=__doc__)
    parser.add_argument("--pictures", type=Path, default=WORK / "pictures", help="directory for screenshots")
    pictures = parser.parse_args().pictures
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        print(f"{' or '.join(NAMES)} is not installed.", file=sys.stderr)
        return 1
    browser = _environment("venv", REQUIREMENTS)
    pictures.mkdir(parents=True, exist_ok=True)
    from airflow_provider_sim.emulator import SimEmulator
    from airflow_provider_sim.get_provider_info import get_provider_info

    connection_types: Any = get_provider_info()["connection-types"]
    with SimEmulator() as sim, bad_connections(sim) as bad, ThreadPoolExecutor(1) as meanwhile:
        known = {
            "sim": sim.url,
            "key": sim.api_key,
            "form": connection_types[0],
            "bad": [{"label": case.label, "advice": case.advice, "connection": case.connection} for case in bad],
            "connection_id": CONNECTION,
            "chromium": chromium,
            "pictures": str(pictures.resolve()),
        }

        def tour(module: str, told: dict[str, str]) -> None:
            words = json.dumps({**known, **told})
            subprocess.run([browser, "-m", module], input=words, text=True, cwd=REPO, check=True)

        old = Airflow2(WORK / "airflow-2", sim.url, sim.api_key)
        being_made = meanwhile.submit(old.create)
        try:
            with _airflow_3(WORK / "airflow", sim.url, sim.api_key) as told:
                tour("scripts.browser_tour", told)
            being_made.result()
            with old.webserver() as told:
                tour("scripts.browser_tour_2", told)
            if "Connection success!" not in (said := old.run("connections", "test", CONNECTION)):
                print(said, file=sys.stderr)
                return 1
        except subprocess.CalledProcessError as error:
            print(error.stdout or "", error.stderr or "", f"{error}; see {WORK}", sep="\n", file=sys.stderr)
            return 1
    return 0


@contextlib.contextmanager
def _airflow_3(home: Path, sim_url: str, sim_key: str) -> Iterator[dict[str, str]]:
    from airflow import __version__

    os.environ.update(local_airflow.environment(home, sim_url=sim_url, sim_key=sim_key))
    local_airflow.create(home)
    port, log = local_airflow.free_port(), WORK / "airflow.log"
    with local_airflow.components(port, log, AIRFLOW__CORE__TEST_CONNECTION="Enabled"):
        yield {"airflow": f"http://127.0.0.1:{port}", "version": __version__, "log": str(log)}


class Airflow2:
    """An Airflow 2.11 in a separate environment; only its webserver runs."""

    def __init__(self, home: Path, sim_url: str, sim_key: str) -> None:
        self._home = home
        self._password = secrets.token_urlsafe(12)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            **local_airflow.environment(home, sim_url=sim_url, sim_key=sim_key),
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__WEBSERVER__WORKERS": "1",
        }

    def create(self) -> None:
        """Install it, and recreate its directory with a user."""
        self._python = _environment("venv-airflow-2", REQUIREMENTS_2, with_package=True)
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir(parents=True)
        self.run("db", "migrate")
        names = ("--firstname", USER, "--lastname", USER, "--email", f"{USER}@example.com")
        self.run("users", "create", "--username", USER, "--password", self._password, "--role", "Admin", *names)

    def run(self, *words: str) -> str:
        """Run an Airflow command and return its output.

        :raises subprocess.CalledProcessError: it failed; the error has its output.
        """
        command = [self._python, "-m", "airflow", *words]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    @contextlib.contextmanager
    def webserver(self) -> Iterator[dict[str, str]]:
        """Run the webserver for a ``with`` block."""
        port, log = local_airflow.free_port(), WORK / "airflow-2.log"
        url = f"http://127.0.0.1:{port}"
        command = [str(self._python), "-m", "airflow", "webserver", "--hostname", "127.0.0.1", "--port", str(port)]
        with log.open("w") as output, local_airflow.running(command, self._environment, output) as process:
            if not local_airflow.is_up(f"{url}/health", process):
                raise RuntimeError(f"Airflow 2 did not start; see {log}")
            yield {
                "airflow": url,
                "version": "2.11",
                "log": str(log),
                "user": USER,
                "user_password": self._password,
            }


def _environment(name: str, requirements: Path, *, with_package: bool = False) -> Path:
    """Create a Python environment unless it exists; return its Python."""
    python, stamp = WORK / name / "bin" / "python", WORK / name / "installed"
    wanted = requirements.read_text() + (REPO / "pyproject.toml").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, WORK / name], check=True)
        install = [UV, "pip", "sync", "--quiet", "--require-hashes", "--python", python, requirements]
        subprocess.run(install, check=True)
        if with_package:
            editable = ("--quiet", "--no-deps", "--no-build-isolation", "--editable", REPO)
            subprocess.run([UV, "pip", "install", "--python", python, *editable], check=True)
        stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    sys.exit(main())
