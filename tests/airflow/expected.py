"""Expected states, outputs and runs of the example DAGs."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.profiles import Profile
from scripts.local_airflow import EXAMPLE_DAGS

WITHOUT_V2 = {
    "deploy.deploy": "failed",
    "deploy.trial": "upstream_failed",
    "deploy.go_back": "failed",
    "files.upload": "failed",
}
"""Tasks that require v2."""

STATES = {
    "agent.answer": "success",
    "approval.ask": "success",
    "approval.decide": "success",
    "approval.answer": "success",
    "approval.resume": "success",
    "approval.done": "success",
    "async_sensor.start": "success",
    "async_sensor.done": "success",
    "async_sensor.publish": "success",
    "batch.letters": "success",
    "batch.review": "success",
    "batch.report": "success",
    "batch.several": "success",
    "batch.report_several": "success",
    "batch_results.names": "success",
    "batch_results.greet": "success",
    "batch_results.write": "success",
    "batch_results.check": "success",
    "branch.triage": "success",
    "branch.route": "success",
    "branch.page_team": "success",
    "branch.file_ticket": "skipped",
    "deferrable.summary": "success",
    "deferrable.start": "success",
    "deferrable.done": "success",
    "event_driven.report": "success",
    "errors_and_usage.has_room": "success",
    "errors_and_usage.judge": "failed",
    "errors_and_usage.fall_back": "success",
    "cancel.start": "success",
    "cancel.cancel": "success",
    "deploy.deploy": "success",
    "deploy.trial": "success",
    "deploy.go_back": "skipped",
    "files.read": "success",
    "files.upload": "success",
    "files.compare": "success",
    "files.names": "success",
    "mapped.tickets": "success",
    "mapped.review[0]": "success",
    "mapped.review[1]": "success",
    "mapped.review[2]": "success",
    "mapped.report": "success",
    "notifier.load": "failed",
    "notifier.go_on": "success",
    "streaming.story": "success",
    "streaming.count_words": "success",
    "sync.answer": "success",
    "sync.publish": "success",
    "usage.room": "success",
    "usage.digest": "success",
    "taskflow.outline": "success",
    "taskflow.chapters": "success",
    "taskflow.write[0]": "success",
    "taskflow.write[1]": "success",
}
"""States by task name, on a server with v2."""

STABLE_PARTS: dict[str, Callable[[Any], Any]] = {
    "agent.answer": lambda called: _parsed(_parsed(called)["review_execute_with_retry"])["output"],
    "approval.ask": lambda report: report["question"],
    "approval.decide": lambda decided: decided["chosen_options"],
    "approval.resume": lambda resumed: resumed["status"],
    "batch.review": lambda results: [result["output"] for result in results],
    "batch_results.greet": lambda results: [result["output"]["content"] for result in results],
    "batch_results.write": lambda path: path.startswith("file:///"),
    "batch.several": lambda results: [(result["status"], result.get("output")) for result in results],
    "cancel.cancel": lambda cancelled: cancelled["status"],
    "deploy.deploy": lambda deployed: deployed["version"],
    "errors_and_usage.has_room": lambda usage: (usage["percent_used"], usage["usd"]["used"]),
    "files.compare": lambda output: len(output),
    "files.read": lambda output: [file["size"] for file in output["result"]],
    "files.upload": lambda output: [file["size"] for file in output["result"]],
    "sync.publish": lambda text: ast.literal_eval(text.removeprefix("Sim says: ")),  # in the database's own order
    "usage.room": lambda usage: (usage["percent_used"], usage["usd"]["used"]),
}
"""Stable parts of outputs that differ between runs."""

RUN_IDS = {"async_sensor.start", "cancel.start", "deferrable.start"}
"""Tasks that return a run ID."""


def _parsed(value: Any) -> Any:
    """Return JSON text as its value; the test model's answer is text."""
    return json.loads(value) if isinstance(value, str) else value


def states(profile: Profile) -> dict[str, str]:
    """Return the expected task states."""
    return {
        **STATES,
        **({} if profile.v2_on else WITHOUT_V2),
    }


def outputs(sim: SimEmulator) -> dict[str, Any]:
    """Return the expected outputs in the form of :func:`stable`."""
    profile = sim.state.profile
    slept = {"result": {"slept": 3.0, "message": "take your time"}, "stdout": ""}
    summary = {"result": {"slept": 2.0, "message": "AIRFLOW-RUN"}, "stdout": ""}
    echo = {"echo": {"message": "Good morning, it is AIRFLOW-RUN", "count": 3, "payload": {}}, "ok": True}
    letters = [{"message": f"letter {number}", "count": number} for number in range(20)]
    tickets = [{"message": f"ticket {number}", "count": number} for number in (17, 42, 99)]
    text = "You wrote: Describe the sea.\nHere is what I think of it.\nIt could be said in fewer words.\n"
    agent = sim.state.workflows["streaming"].block_id
    titles = [f"An outline on the sea, chapter {number}" for number in (1, 2)]
    approved = {"approved": True, "comment": "by all means"}
    several = [("completed", _plain({"message": "this one is fine"})), ("failed", None), ("skipped", None)]
    return {
        "agent.answer": _plain({}),
        "approval.ask": "Approve the plan?",
        "approval.decide": ["Approve"],
        "approval.answer": approved,
        "approval.resume": "completed",
        "approval.done": {"result": approved, "stdout": ""},
        "async_sensor.done": slept,
        "async_sensor.publish": f"The run ended well with {slept}",
        "batch.letters": letters,
        "batch.review": [_plain(letter) for letter in letters],
        "batch.report": {"completed": 20},
        "batch.several": several,
        "batch.report_several": {"completed": 1, "failed": 1, "skipped": 1},
        "batch_results.names": [{"name": name} for name in ("Ada", "Grace", "Katherine")],
        "batch_results.greet": [f"Hello, {name}!" for name in ("Ada", "Grace", "Katherine")],
        "batch_results.write": True,
        "batch_results.check": "all 3 inputs completed",
        "branch.triage": _plain({"message": "The shop is down", "count": 9, "payload": {"team": "web"}}),
        "branch.route": None,
        "branch.page_team": "paged the web team",
        "branch.file_ticket": None,
        "cancel.cancel": "cancelled",
        "deferrable.summary": summary,
        "deferrable.done": _plain({"message": "built on the summary", "payload": summary}),
        "deploy.deploy": 2 if profile.v2_on else None,
        "deploy.trial": _plain({"message": "does it work?"}) if profile.v2_on else None,
        "deploy.go_back": None,
        "errors_and_usage.has_room": (0, 0),
        "errors_and_usage.judge": None,
        "errors_and_usage.fall_back": "Sim could not judge; a person will",
        "event_driven.report": [],
        "files.read": [(EXAMPLE_DAGS / "example_sim_files.py").stat().st_size],
        "files.upload": [(EXAMPLE_DAGS / "example_sim_files.py").stat().st_size] if profile.v2_on else None,
        "files.compare": 2,
        "files.names": ["example_sim_files.py (text/x-python)", "tickets.csv (text/csv)"],
        "mapped.tickets": tickets,
        **{f"mapped.review[{index}]": _plain(ticket) for index, ticket in enumerate(tickets)},
        "mapped.report": "ticket 17, ticket 42, ticket 99",
        "notifier.load": None,
        "notifier.go_on": "the notifier has started a run",
        "streaming.story": {agent: text},
        "streaming.count_words": len(text.split()),
        "sync.answer": {"data": echo, "status": 200, "headers": {"Content-Type": "application/json"}},
        "sync.publish": echo,
        "taskflow.outline": _plain({"message": "An outline on the sea", "payload": {"asked_by": "AIRFLOW-RUN"}}),
        "taskflow.chapters": titles,
        **{
            f"taskflow.write[{index}]": _plain({"message": title, "payload": {"tone": "plain"}})
            for index, title in enumerate(titles)
        },
        "usage.room": (0, 0),
        "usage.digest": _plain({"message": "the day's digest"}),
    }


def stable(returned: Mapping[str, Any]) -> dict[str, Any]:
    """Return outputs without the parts that differ between runs."""
    return {
        name: _without_run_ids(STABLE_PARTS[name](output) if name in STABLE_PARTS and output else output)
        for name, output in returned.items()
        if name not in RUN_IDS
    }


def runs(profile: Profile) -> Counter[tuple[str, str]]:
    """Count the expected runs by workflow and mode: one for each task and retry."""
    trials = 1 if profile.v2_on else 0
    return Counter(
        {
            ("slow", "async"): 3,
            ("echo_plain", "async"): 7 + 20 + 1,
            ("paused", "async"): 1,
            ("failing", "sync"): 2,
            ("streaming", "stream"): 1,
            ("echo", "sync"): 1,
            ("hello", "async"): 3,
        }
    ) + Counter(
        [
            ("failing", "async"),
            ("file_echo", "sync"),
            ("file_echo", "stream"),
            *[("file_echo", "async")] * trials,
            *[("echo_plain", "sync")] * (4 + trials),
        ]
    )


def name_of(task: Any) -> str:
    """Return the name of a task instance or report: ``dag.task`` or ``dag.task[index]``, without ``example_sim_``."""
    name = f"{task.dag_id}.{task.task_id}".removeprefix("example_sim_")
    return name if task.map_index < 0 else f"{name}[{task.map_index}]"


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """Output of ``echo_plain``."""
    return {"result": {"message": "", "count": 0, "payload": {}, **given}, "stdout": ""}


def _without_run_ids(value: Any) -> Any:
    """Replace Airflow's run IDs in a value."""
    if isinstance(value, dict):
        return {key: _without_run_ids(item) for key, item in value.items()}
    return re.sub(r"manual__[^'\"]+", "AIRFLOW-RUN", value) if isinstance(value, str) else value
