"""Retry matrix: how many requests and runs a start causes after each fault.

Each row is a fault between a client and an emulated server, over a real socket, for both clients, in every mode in
which it can occur. The servers are

- ``v2``;
- ``legacy``: the same without v2, before the client has learned whether it accepts run IDs;
- ``known``: the same, after an asynchronous start has shown that it accepts each of the caller's run IDs once;
- ``old``: a server that chooses run IDs itself, so a run can't be found if the response to its start is lost.

The last two are marked slow: they take as long as the first two together.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import requests

from airflow_provider_sim.client.models import AsyncExecutionResult
from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.emulator import Match, SimEmulator
from airflow_provider_sim.emulator.fault_rules import FaultRule
from airflow_provider_sim.emulator.request_context import Fault, RequestInfo
from airflow_provider_sim.emulator.workflows import BlockError
from airflow_provider_sim.exceptions import (
    SimAuthenticationError,
    SimConnectionError,
    SimError,
    SimInputError,
    SimNotFoundError,
    SimPermissionError,
    SimRateLimitError,
    SimRedirectError,
    SimServerError,
    SimStreamError,
    SimTimeoutError,
    SimUsageLimitError,
    SimWorkflowNotDeployedError,
)

SERVERS = {"v2": "v0.8", "legacy": "v0.8-legacy", "known": "v0.8-legacy", "old": "v0.6.40"}
MODES: dict[str, dict[str, bool]] = {"sync": {}, "stream": {"stream": True}, "async": {"async_execution": True}}
POLICY = RetryPolicy(jitter=0)

LONG = {"seconds": 600}
"""The input that makes ``slow`` take so long, of the emulator's clock."""

DONE = "done"
"""A receipt where the run was to be queued, else the completed run."""


@dataclass(frozen=True)
class Ends:
    """How a start ends.

    :param ids: the run ids of the attempts that the server saw, by letters: ``AA`` is one id twice, ``AB`` two ids.
    :param started: runs that were really started, those that were there before included.
    :param outcome: the run's status, ``receipt``, or the kind of the error.
    :param live: runs that are active at the end.
    :param waits: seconds before each repetition, looks for a run included; None where chance has a say in them.
    """

    ids: str
    started: int
    outcome: Any
    live: int = 0
    waits: tuple[float, ...] | None = ()


Trouble = Callable[[SimEmulator], object]
Cases = Mapping[str, Ends]


@dataclass(frozen=True)
class Row:
    """One row of the matrix.

    :param trouble: what goes wrong.
    :param cases: how it ends, by servers and modes: ``v2 known / async``, ``*`` for all.
    :param meanwhile: what happens while the client waits.
    :param says: what the log gives as the reason for waiting.
    :param servers: where it is tried, of those in ``cases``; likewise ``modes``.
    """

    trouble: Trouble
    cases: Cases
    workflow: str = "echo_plain"
    meanwhile: Trouble = lambda sim: None
    says: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    servers: tuple[str, ...] = tuple(SERVERS)
    modes: tuple[str, ...] = tuple(MODES)

    def ends(self, server: str, mode: str) -> Ends | None:
        """How it ends there; None where it can't happen."""
        found = [
            ends
            for key, ends in self.cases.items()
            for servers, modes in [key.split(" / ")]
            if (servers == "*" or server in servers.split()) and (modes == "*" or mode in modes.split())
        ]
        assert len(found) < 2, f"two cases for {server} / {mode}"
        return found[0] if found and server in self.servers and mode in self.modes else None


def fault(name: str, match: str | Match = "execute", **how: Any) -> Trouble:
    return lambda sim: sim.fault(name, match=match, **how)


def nothing(sim: SimEmulator) -> None:
    """Nothing goes wrong."""


def both(*troubles: Trouble) -> Trouble:
    return lambda sim: [trouble(sim) for trouble in troubles]


def unplug(sim: SimEmulator) -> None:
    """Close the server's socket."""
    sim._port = int(sim.url.rpartition(":")[2])
    sim.stop()


def plug_in(sim: SimEmulator) -> None:
    """Listen again, at the same address."""
    if sim._server is None:
        sim.start()


def seen_at_once(sim: SimEmulator) -> None:
    """Sim sees without delay that the caller of a held-open run is gone, and cancels it."""
    sim.on_request(lambda request: [run.abandon() for run in sim.runs if run.mode != "async"])


def empty_buckets(sim: SimEmulator) -> None:
    limits = sim.state.limits
    limits.sync_per_minute = limits.async_per_minute = 1
    limits.clear()
    for bucket in (limits.sync, limits.asynchronous):
        while bucket.take():
            pass


def no_money(sim: SimEmulator) -> None:
    sim.state.limits.usage_limit = -1.0


def no_key(sim: SimEmulator) -> None:
    """The key is none any more."""
    sim.state.keys._by_value.clear()


def no_personal_keys(sim: SimEmulator) -> None:
    sim.state.keys.personal_keys_allowed = False


def short_limit(sim: SimEmulator) -> None:
    """The server stops runs that are held open at once."""
    sim.state.limits.sync_timeout = 0.01


def fails(status: int) -> Trouble:
    """The workflow's block fails, with another response on the legacy API."""

    def body(given: dict[str, Any]) -> Any:
        raise BlockError("the model is overloaded", status=status)

    return lambda sim: sim.workflow("its_own")(body)


def talks(sim: SimEmulator) -> None:
    """A workflow that begins to stream at once, and takes ten minutes."""
    sim.workflow("talk", duration=600.0, chunks=lambda given: ["one ", "two "], block="Agent")(lambda given: {})


def taken(workflow: str, trouble: Trouble = nothing) -> Trouble:
    """The id that is sent first was used before."""

    def start(sim: SimEmulator) -> None:
        trouble(sim)
        headers = {"X-API-Key": sim.api_key, "X-Execution-Id": "taken", "X-Execution-Mode": "async"}
        requests.post(f"{sim.url}/api/workflows/{workflow}/execute", json=LONG, headers=headers, timeout=30)
        sim.state.requests.clear()

    return start


# --- how lost answers end ---------------------------------------------------------------------------------------------

READS = (1, 2, 4)


def not_begun(error: type[SimError]) -> Cases:
    """The server has done nothing, and the client can't know."""
    return {
        "v2 known / *": Ends("AA", 1, DONE, waits=READS),
        "legacy / *": Ends("A", 0, error, waits=READS),
        "old / *": Ends("A", 0, error, waits=READS * 2),
    }


def begun(error: type[SimError]) -> Cases:
    """The run is there; held open, it is cancelled, because its caller is gone."""
    return {
        "v2 legacy known / async": Ends("A", 1, DONE, live=1),
        "v2 legacy known / sync stream": Ends("A", 1, "cancelled"),
        "old / async": Ends("A", 1, error, live=1, waits=READS * 2),
        "old / sync stream": Ends("A", 1, error, waits=READS * 2),
    }


def hidden(error: type[SimError]) -> Cases:
    """The run is there, and a proxy hides that its caller is gone."""
    return {
        "v2 legacy known / async": Ends("A", 1, DONE, live=1),
        "v2 legacy known / sync stream": Ends("A", 1, "running", live=1),
        "old / *": Ends("A", 1, error, live=1, waits=READS * 2),
    }


def lost(what: str, error: type[SimError], **how: Any) -> dict[str, Row]:
    """The three rows of one more way to lose an answer, where they may make a difference."""
    seen = both(seen_at_once, fault(**how, when="accepted"))
    unseen = fault(**how, when="accepted", proxied=True)
    rows = {
        f"{what}, nothing begun": Row(fault(**how), not_begun(error)),
        f"{what}, the run begun": Row(seen, begun(error), "slow"),
        f"{what}, the run begun behind a proxy": Row(unseen, hidden(error), "slow"),
    }
    return {name: replace(row, servers=("v2", "legacy"), modes=("sync", "async")) for name, row in rows.items()}


WITH_NEW_ID = Ends("AB", 1, DONE, waits=(5,))
AGAIN = Ends("AA", 1, DONE, waits=(5,))
AGAIN_SOON = Ends("AA", 1, DONE, waits=(1,))
ADMISSION_IS_AWAY = "Usage admission is temporarily unavailable. Please retry."


ROWS: dict[str, Row] = {
    # --- never sent
    "connection refused": Row(unplug, {"* / *": Ends("", 0, SimConnectionError, waits=READS)}, says="can't be reached"),
    "connection refused at first": Row(unplug, {"* / *": Ends("A", 1, DONE, waits=(1,))}, meanwhile=plug_in),
    # --- refused, for a reason that passes
    "429, too many executions": Row(
        fault("rate_limit", kind="execution"),
        {"v2 / *": Ends("AB", 1, DONE, waits=(60,)), "legacy known old / *": Ends("AB", 1, DONE, waits=(20,))},
        says="executions per minute are used up",
    ),
    "429, until the bucket is filled": Row(
        empty_buckets,
        {"v2 / *": Ends("AB", 1, DONE, waits=(60,)), "legacy known old / *": Ends("ABCD", 1, DONE, waits=(20, 30, 30))},
    ),
    "429, too many runs": Row(
        fault("rate_limit", kind="concurrency"), {"* / *": WITH_NEW_ID}, says="number of concurrent runs is reached"
    ),
    "429, too many runs for too long": Row(
        fault("rate_limit", kind="concurrency", times=None),
        {
            "v2 / *": Ends("ABCD", 0, SimRateLimitError, waits=(5, 5, 5)),
            "legacy known old / *": Ends("ABCD", 0, SimRateLimitError, waits=(5, 10, 20)),
        },
    ),
    "429, the gate": Row(fault("rate_limit", kind="gate"), {"* / *": AGAIN}),
    "429, too many requests": Row(
        fault("rate_limit", kind="requests"), {"v2 / *": Ends("AA", 1, DONE, waits=(60,))}, says="too many requests"
    ),
    "429, too many requests from an address": Row(
        fault("rate_limit", kind="address"), {"v2 / *": Ends("AA", 1, DONE, waits=(60,))}
    ),
    "429, a proxy's": Row(
        fault("server_error", status=429, page=True), {"* / *": AGAIN_SOON}, says="a proxy between this machine and Sim"
    ),
    "429, with a time to wait": Row(
        fault("rate_limit", kind="concurrency", retry_after="42"), {"* / *": Ends("AB", 1, DONE, waits=(42,))}
    ),
    "503, Sim's": Row(
        fault("server_error", status=503, message="Workflow execution identity is temporarily unavailable"),
        {"v2 / *": AGAIN, "legacy known old / *": AGAIN_SOON},
        says="unavailable at the moment",
    ),
    "503, overloaded": Row(
        fault("server_error", status=503, message="Service overloaded", code="SERVICE_OVERLOADED"), {"v2 / *": AGAIN}
    ),
    "503, with a message that may be a workflow's": Row(
        fault("server_error", status=503, message="Come back later"),
        {
            "v2 / *": AGAIN,
            "legacy known old / async": AGAIN_SOON,
            "legacy known / sync stream": Ends("A", 0, SimServerError),
            "old / sync stream": Ends("A", 0, SimServerError, waits=READS * 2),
        },
    ),
    "500, not queued": Row(fault("server_error", message="Failed to queue async execution"), {"* / async": AGAIN_SOON}),
    "503, the keys are away": Row(fault("auth_outage"), {"v2 / *": AGAIN}),
    "503, the keys are away for three attempts": Row(
        fault("auth_outage", times=3), {"v2 / *": Ends("AAAA", 1, DONE, waits=(5, 5, 5))}
    ),
    "503, the keys are away for four": Row(
        fault("auth_outage", times=4), {"v2 / *": Ends("AAAA", 0, SimServerError, waits=(5, 5, 5))}
    ),
    "401, the keys are away": Row(
        fault("auth_outage"), {"legacy known old / *": AGAIN_SOON}, says="doesn't accept the API key"
    ),
    "401, the keys are away for two attempts": Row(
        fault("auth_outage", times=2), {"legacy known old / *": Ends("AAA", 1, DONE, waits=(1, 2))}
    ),
    "401, the keys are away for three": Row(
        fault("auth_outage", times=3), {"legacy known old / *": Ends("AAA", 0, SimAuthenticationError, waits=(1, 2))}
    ),
    # --- refused for good
    "401, a wrong key": Row(
        no_key,
        {
            "v2 / *": Ends("A", 0, SimAuthenticationError),
            "legacy known old / *": Ends("AAA", 0, SimAuthenticationError, waits=(1, 2)),
        },
    ),
    "402": Row(no_money, {"* / *": Ends("A", 0, SimUsageLimitError)}),
    "403, not deployed": Row(nothing, {"* / *": Ends("A", 0, SimWorkflowNotDeployedError)}, "undeployed"),
    "403, personal keys": Row(no_personal_keys, {"* / *": Ends("A", 0, SimPermissionError)}),
    "404": Row(nothing, {"* / *": Ends("A", 0, SimNotFoundError)}, "nowhere"),
    "400": Row(
        fault("server_error", status=400, message="Invalid request body"), {"* / *": Ends("A", 0, SimInputError)}
    ),
    "413": Row(
        fault("server_error", status=413, message="Workflow execution request body exceeds maximum size"),
        {"* / *": Ends("A", 0, SimInputError)},
    ),
    "a redirect": Row(fault("redirect"), {"* / *": Ends("A", 0, SimRedirectError)}),
    # --- unknown
    "cut, nothing begun": Row(fault("drop_before_accept"), not_begun(SimConnectionError), says="broke before"),
    "cut every time": Row(
        fault("drop_before_accept", times=None),
        {
            "v2 known / *": Ends("AAAA", 0, SimConnectionError, waits=READS * 4),
            "legacy / *": Ends("A", 0, SimConnectionError, waits=READS),
            "old / *": Ends("A", 0, SimConnectionError, waits=READS * 2),
        },
    ),
    "cut, then 503": Row(  # the first may still be on its way
        both(fault("drop_before_accept"), fault("server_error", status=503, message=ADMISSION_IS_AWAY, after=1)),
        {"v2 known / *": Ends("AAA", 1, DONE, waits=None)},
    ),
    "cut, then the gate": Row(
        both(fault("drop_before_accept"), fault("rate_limit", kind="gate", after=1)),
        {"v2 known / *": Ends("AAA", 1, DONE, waits=None)},
    ),
    "cut, the run begun": Row(both(seen_at_once, fault("drop_after_accept")), begun(SimConnectionError), "slow"),
    "cut, the run begun behind a proxy": Row(
        fault("drop_after_accept", proxied=True), hidden(SimConnectionError), "slow"
    ),
    "reset, nothing begun": Row(fault("drop_before_accept", reset=True), not_begun(SimConnectionError)),
    "reset, the run begun": Row(
        both(seen_at_once, fault("drop_after_accept", reset=True)), begun(SimConnectionError), "slow"
    ),
    **lost("500", SimServerError, name="server_error", message="Something broke"),
    **lost("502", SimServerError, name="server_error", status=502),
    **lost("504", SimServerError, name="server_error", status=504),
    **lost("499", SimServerError, name="server_error", status=499, message="Client cancelled request"),
    **lost("503, a proxy's", SimServerError, name="server_error", status=503, page=True),
    "half an answer": Row(
        fault("half_answer"),
        {
            "v2 legacy known / sync async": Ends("A", 1, DONE),
            "old / sync async": Ends("A", 1, SimConnectionError, waits=READS * 2),
        },
    ),
    "no answer in time": Row(
        lambda sim: sim.hold("execute", when="accepted", proxied=True),
        {"v2 / sync": Ends("A", 1, "running", live=1), "v2 legacy / async": Ends("A", 1, DONE, live=1)},
        "slow",
        options={"timeout": 0.6},
    ),
    "no answer in time, and the start arrives after its repetition": Row(
        lambda sim: sim.hold("execute", proxied=True),
        {
            "v2 / sync async": Ends("AA", 1, DONE, waits=READS),
            "legacy / async": Ends("A", 1, SimTimeoutError, waits=READS),
        },
        options={"timeout": 0.6},
    ),
    "a run that is not to be seen for half a minute": Row(
        both(fault("drop_after_accept"), fault("transient_404", seconds=30.0)),
        {
            "v2 known / async": Ends("AA", 1, DONE, live=1, waits=None),
            "legacy / async": Ends("A", 1, SimConnectionError, live=1, waits=READS),
        },
        "slow",
    ),
    "the server restarts, nothing begun": Row(fault("restart"), not_begun(SimConnectionError)),
    "the server restarts and forgets its queue": Row(
        both(lambda sim: setattr(sim.state, "queue_delay", 60.0), fault("restart", when="accepted")),
        {
            "v2 known / async": Ends("AA", 1, DONE, live=1, waits=READS),
            "legacy / async": Ends("A", 0, SimConnectionError, waits=READS),
            "old / async": Ends("A", 0, SimConnectionError, waits=READS * 2),
        },
        "slow",
    ),
    # --- unknown whether the run is queued
    "ambiguous, queued": Row(fault("ambiguous_enqueue"), {"* / async": Ends("A", 1, DONE, live=1)}, "slow"),
    "ambiguous, queued and not to be seen for half a minute": Row(
        both(fault("ambiguous_enqueue"), fault("transient_404", seconds=30.0)),
        {"* / async": Ends("A", 1, DONE, live=1, waits=None)},
        "slow",
    ),
    "ambiguous, not queued": Row(
        fault("ambiguous_enqueue", started=False),
        {"* / async": Ends("AB", 1, DONE, live=1, waits=None)},
        "slow",
        says="doesn't know whether",
    ),
    "ambiguous twice, queued the second time and not to be seen for half a minute": Row(
        both(
            fault("ambiguous_enqueue", started=False),
            fault("ambiguous_enqueue", after=1),
            fault("transient_404", seconds=90.0),
        ),
        {"* / async": Ends("AB", 1, DONE, live=1, waits=None)},
        "slow",
    ),
    # --- the run id was used before
    "409, by an active run": Row(
        taken("slow"),
        {
            "v2 legacy known / async": Ends("A", 1, DONE, live=1),
            "v2 legacy known / sync stream": Ends("A", 1, "running", live=1),
        },
        "slow",
    ),
    "409, by a run that has completed": Row(taken("echo_plain"), {"v2 legacy known / *": Ends("A", 1, DONE)}),
    "409, by a run that was refused": Row(
        taken("echo_plain", fault("rate_limit", kind="concurrency")), {"v2 legacy known / *": Ends("AB", 1, DONE)}
    ),
    # --- the workflow ran
    "a workflow that fails": Row(
        nothing, {"* / async": Ends("A", 1, DONE), "* / sync stream": Ends("A", 1, "failed")}, "failing"
    ),
    "a hosted model's limit": Row(
        fault("rate_limit", kind="model"), {"* / async": Ends("A", 1, DONE), "* / sync stream": Ends("A", 1, "failed")}
    ),
    "a block's own 503": Row(fails(503), {"* / sync": Ends("A", 1, "failed")}, "its_own"),
    "a block's own 400": Row(fails(400), {"* / sync": Ends("A", 1, "failed")}, "its_own"),
    "a run that Sim stops": Row(short_limit, {"* / sync stream": Ends("A", 1, "failed")}, "slow"),
    "a Response block's 429": Row(
        nothing,
        {"v2 legacy known / sync": Ends("A", 1, DONE), "old / sync": Ends("A", 1, SimRateLimitError, waits=READS * 2)},
        "status429",
    ),
    "a Response block's 500": Row(
        nothing,
        {"v2 legacy known / sync": Ends("A", 1, DONE), "old / sync": Ends("A", 1, SimServerError, waits=READS * 2)},
        "status500",
    ),
    "a stream that is cut": Row(
        both(talks, fault("cut_stream")),
        {"* / stream": Ends("A", 1, (SimStreamError, SimConnectionError))},
        "talk",
        options={"selected_outputs": ["Agent.content"]},
    ),
    "a stream that is cut behind a proxy": Row(
        both(talks, fault("cut_stream", proxied=True)),
        {"* / stream": Ends("A", 1, (SimStreamError, SimConnectionError), live=1)},
        "talk",
        options={"selected_outputs": ["Agent.content"]},
    ),
}


def cells() -> Iterator[Any]:
    for name, row in ROWS.items():
        for server, profile in SERVERS.items():
            for mode in MODES:
                if row.ends(server, mode) is not None:
                    marks = [pytest.mark.sim_emulator(profile=profile)]
                    if server in ("known", "old"):
                        marks.append(pytest.mark.slow)
                    yield pytest.param(row, server, mode, marks=marks, id=f"{name}-{server}-{mode}")


@pytest.fixture
def sim(emulator: SimEmulator) -> Iterator[SimEmulator]:
    """The server; at the end it has no requests and no active runs."""
    yield emulator
    plug_in(emulator)
    emulator._port = 0
    for run in emulator.runs:
        run.cancel()
    emulator.state.fault_rules.remove()


class Starts(FaultRule):
    """Notes the run ids of the starts that Sim sees, in the order of their arrival; nothing goes wrong with them."""

    def __init__(self) -> None:
        super().__init__(Fault(), Match("execute"), times=None)
        self.ids: list[str | None] = []

    def apply(self, info: RequestInfo) -> None:
        if self.match.matches(info):
            self.ids.append(info.run_id)

    def letters(self) -> str:
        """The ids as ``Ends`` has them."""
        names = list(dict.fromkeys(self.ids))
        return "".join("ABCDEFGH"[names.index(run_id)] for run_id in self.ids)


def until(true: Callable[[], bool]) -> bool:
    """Wait for a condition that the server fulfills in its thread; return whether it is fulfilled."""
    pause = threading.Event()
    return any(true() or pause.wait(0.01) for _ in range(1000))


@pytest.mark.parametrize(("row", "server", "mode"), list(cells()))
def test_number_of_started_runs(connect, sim, caplog, row, server, mode):
    def meanwhile(seconds: float) -> None:
        sim.clock.advance(seconds)
        row.meanwhile(sim)

    version = "auto" if server == "v2" else "legacy"
    client = connect(sim.url, key=sim.api_key, api_version=version, retry=POLICY, meanwhile=meanwhile)
    if server == "known":
        client.execute_workflow("echo_plain", async_execution=True)
        sim.clear()
    row.trouble(sim)
    starts = Starts()
    sim.state.fault_rules.add(starts)
    expected = row.ends(server, mode)
    ids = (name for name in itertools.chain(["taken"], map("id-{}".format, itertools.count())))

    try:
        got = client.start_workflow_run(row.workflow, LONG, run_id=ids, **MODES[mode], **row.options)
        if mode == "stream":
            *_, end = client.events(got)
            got = end.result
    except SimError as error:
        outcome: Any = type(error)
    else:
        outcome = "receipt" if isinstance(got, AsyncExecutionResult) else str(got.status)

    sim.state.fault_rules.remove()  # what is still held in the server is carried out now
    until(lambda: live(sim) == expected.live and (expected.live > 0 or answered(sim) == len(starts.ids)))
    happened = Ends(
        ids=starts.letters(),
        started=sum(run.refused is None for run in sim.runs),
        outcome=DONE if outcome == ("receipt" if mode == "async" else "completed") else outcome,
        live=live(sim),
        waits=None if expected.waits is None else tuple(map(round, client.sleeps)),
    )
    if isinstance(expected.outcome, tuple) and outcome in expected.outcome:
        expected = replace(expected, outcome=outcome)
    assert happened == expected
    check_log(row, caplog, client.sleeps)


def answered(sim: SimEmulator) -> int:
    """How many starts Sim is done with, since the client's first."""
    return sum(seen.path.endswith("/execute") for seen in sim.requests)


def live(sim: SimEmulator) -> int:
    return sum(not run.is_over for run in sim.runs)


def check_log(row: Row, caplog: pytest.LogCaptureFixture, sleeps: list[float]) -> None:
    """Each wait is in the log, with its length and what went wrong."""
    said = [record.getMessage() for record in caplog.records if "Retrying in" in record.getMessage()]
    for message, seconds in zip(said, sleeps, strict=True):
        assert message.startswith("Could not "), message
        assert f"Retrying in {seconds:.1f} s" in message
    assert row.says in caplog.text, "no word of the reason"
