"""The API key is in no log line, no error and no representation, whatever goes wrong."""

from __future__ import annotations

import copy
import logging
import pickle
import signal
import traceback
from pathlib import Path

import pytest

from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.exceptions import SimError
from tests.canned_server import Answer, canned, closed_port
from tests.client.conftest import KEY
from tests.client.test_api_errors import ROWS

FAULTS = {
    "silence": Answer(silent=True),
    "cut": Answer(200, b'{"data": 1}', cut=4),
    "slow": Answer(delay=0.5),
    "page": Answer(200, b"<html>"),
    "redirect": Answer(302, b"", {"location": "https://elsewhere.example.com/login"}),
    "no stream": Answer(200, b"data: x\n\n", {"content-type": "text/event-stream"}),
    # Servers and proxies that throw the request's own headers back
    "mirror": Answer(400, {"error": {"code": "BAD_REQUEST", "message": f"Bad header x-api-key: {KEY}"}}),
    "mirror in details": Answer(
        400, {"error": {"code": "BAD_REQUEST", "message": "Bad header", "details": [{"path": ["x"], "message": KEY}]}}
    ),
}


@pytest.mark.parametrize("name", [*ROWS, *FAULTS, "refused connection"])
def test_logs_and_errors_do_not_contain_the_key(connect, caplog, capfd, name):
    caplog.set_level(logging.DEBUG)
    answer = FAULTS.get(name) or (ROWS[name][2] if name in ROWS else Answer())
    with canned(answer) as server:
        url = f"http://127.0.0.1:{closed_port()}" if name == "refused connection" else server.url
        client = connect(url, api_version="v2", timeout=0.2)
        with pytest.raises(SimError) as caught:
            list(client.events(client.execute_with_retry("wf-1", timeout=0.2, max_retries=1, stream=True)))
    error = caught.value
    chain, current = [], error
    while current is not None:
        chain.append(repr(current))
        current = current.__cause__ or current.__context__
    told = [*chain, str(vars(error)), "".join(traceback.format_exception(error)), caplog.text, *capfd.readouterr()]
    told += list(local_variables(error))
    told += [repr(client.client), repr(client.client.settings), str(vars(client.client))]
    assert all(KEY not in text for text in told)


def local_variables(error):
    """Local variables of all functions in the tracebacks of an error and its causes, as in a crash report."""
    current = error
    while current is not None:
        for frame, _ in traceback.walk_tb(current.__traceback__):
            if "tests" not in Path(frame.f_code.co_filename).parts:
                yield from (f"{frame.f_code.co_qualname}: {name}={value!r}" for name, value in frame.f_locals.items())
        current = current.__cause__ or current.__context__


def test_traceback_variables_of_interrupted_request_hide_the_key():
    """As when Airflow's execution_timeout ends a task that waits for a response."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with canned(Answer(delay=1.5)) as server, SimClient(KEY, base_url=server.url) as client:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt) as caught:
                client.get_workflow("wf-1")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    shown = list(local_variables(caught.value))
    assert any("X-API-Key" in text for text in shown), "the request is among them"
    assert all(KEY not in text for text in shown)


def test_settings_repr_hides_the_key():
    settings = ClientSettings(KEY)
    for view in (repr(settings), str(settings), f"{settings}", repr([settings]), repr(copy.copy(settings))):
        assert KEY not in view


def test_errors_keep_their_attributes_when_pickled():
    """Airflow passes errors between processes."""
    error = SimError("It broke.", code="X", status=500, run_id="r", workflow_id="w", retry_after=3.0)
    other = pickle.loads(pickle.dumps(error))
    assert str(other) == "It broke."
    assert vars(other) == vars(error)
