"""Look at Airflow's own pages as a user does, and take pictures of them: ``make browser``.

Starts an Airflow with the example DAGs and an emulator, and sends :mod:`scripts.browser_tour` through its pages, in an
environment of its own and with the machine's Chromium (Debian: ``apt-get install chromium``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts import local_airflow
from scripts.local_airflow import REPO

WORK = REPO / ".browser"
PYTHON = WORK / "venv" / "bin" / "python"
REQUIREMENTS = REPO / "scripts" / "requirements-browser.txt"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Start everything, send the tour through it, and end everything."""
    parser = argparse.ArgumentParser(prog="python -m scripts.browser", description=__doc__)
    parser.add_argument("--pictures", type=Path, default=WORK / "pictures", help="where to put them")
    pictures = parser.parse_args().pictures
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        print(f"There is no {' or '.join(NAMES)} on this machine.", file=sys.stderr)
        return 1
    _install()
    pictures.mkdir(parents=True, exist_ok=True)
    from airflow_provider_sim.emulator import SimEmulator

    home = WORK / "airflow"
    with SimEmulator() as sim:
        os.environ.update(local_airflow.environment(home, sim_url=sim.url, sim_key=sim.api_key))
        local_airflow.create(home)
        port = local_airflow.free_port()
        log = WORK / "airflow.log"
        with local_airflow.components(port, log, AIRFLOW__CORE__TEST_CONNECTION="Enabled"):
            told = {
                "airflow": f"http://127.0.0.1:{port}",
                "sim": sim.url,
                "key": sim.api_key,
                "chromium": chromium,
                "pictures": str(pictures),
                "log": str(log),
            }
            tour = [PYTHON, REPO / "scripts" / "browser_tour.py"]
            return subprocess.run(tour, input=json.dumps(told), text=True, check=False).returncode


def _install() -> None:
    """Make the tour's environment, unless it is there."""
    stamp = WORK / "installed"
    wanted = REQUIREMENTS.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, WORK / "venv"], check=True)
    sync = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", PYTHON, REQUIREMENTS]
    subprocess.run(sync, check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    sys.exit(main())
