"""One blocking client in several threads, over real sockets."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from airflow_provider_sim.client.sync_client import SimClient

THREADS = 8


@pytest.fixture
def used_by(monkeypatch):
    """The threads that have sent requests on each HTTP session."""
    used: dict[requests.Session, Counter[int]] = {}
    send = requests.Session.send

    def spy(session, *args, **kwargs):
        used.setdefault(session, Counter())[threading.get_ident()] += 1
        return send(session, *args, **kwargs)

    monkeypatch.setattr(requests.Session, "send", spy)
    return used


def test_each_thread_has_its_own_session(emulator, used_by):
    barrier = threading.Barrier(THREADS)

    def call(number: int) -> list[str]:
        barrier.wait(timeout=30)
        texts = (f"{number}-{time}" for time in range(5))
        return [client.execute_workflow("echo_plain", {"message": text}).output["result"]["message"] for text in texts]

    with SimClient(emulator.api_key, emulator.url) as client, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(call, range(THREADS)))
    assert answers == [[f"{number}-{time}" for time in range(5)] for number in range(THREADS)]
    assert len(used_by) == THREADS
    assert all(len(threads) == 1 and threads.total() == 5 for threads in used_by.values())


def test_session_is_freed_with_its_thread_or_client(emulator, used_by):
    with SimClient(emulator.api_key, emulator.url) as client:
        thread = threading.Thread(target=client.get_usage_limits)
        thread.start()
        thread.join(timeout=30)
        client.get_usage_limits()
        theirs, ours = (weakref.ref(session) for session in used_by)
        used_by.clear()
        gc.collect()
        assert theirs() is None
        assert ours() is not None
        client.close()
        gc.collect()
        assert ours() is None
        client.get_usage_limits()
    assert len(used_by) == 1
