"""``python -m airflow_provider_sim.emulator``: run a local Sim server until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.limits import PLANS
from airflow_provider_sim.emulator.profiles import PROFILES
from airflow_provider_sim.emulator.server import DEFAULT_API_KEY


def main(arguments: list[str] | None = None) -> int:
    """Run the server until the process receives SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_sim.emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="on 127.0.0.1; 0 for a free one (default: 3000)")
    parser.add_argument("--profile", choices=PROFILES, default="v0.8", help="server version (default: v0.8)")
    parser.add_argument("--plan", choices=PLANS, help="apply the limits of a plan (default: none, as self-hosted)")
    parser.add_argument("--api-key", default=DEFAULT_API_KEY, help="the valid API key")
    parser.add_argument("--log-requests", action="store_true", help="print each request with its status to stderr")
    options = parser.parse_args(arguments)
    if options.log_requests:
        logging.basicConfig(format="%(asctime)s %(message)s")
        logging.getLogger("airflow_provider_sim.emulator").setLevel(logging.DEBUG)
    try:
        emulator = SimEmulator(profile=options.profile, plan=options.plan, api_key=options.api_key, port=options.port)
        emulator.start()
    except (OSError, ValueError) as error:
        print(f"Can't start: {error}", file=sys.stderr)
        return 1
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f"Sim {options.profile} at {emulator.url}  key {emulator.api_key}\n\nWorkflows:")
    for workflow in emulator.state.workflows.values():
        print(f"  {workflow.workflow_id:<16} {workflow.description}")
    print("\nCtrl-C stops it.", flush=True)
    stopped.wait()
    emulator.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
