"""Report of a paused run; light enough for DAG parsing."""

from __future__ import annotations

from typing import Literal, TypedDict


class PauseReport(TypedDict):
    """What a task with ``on_paused="return"`` returns instead of the output, if its run waits for a person.

    ``SimResumeRunOperator`` needs ``run_id``, and ``context_id`` if the run may have several pauses.
    """

    status: Literal["paused"]  # distinguishes a report from an output, where a task may return either
    run_id: str  # the run, which keeps its ID when it is answered
    context_id: str | None  # the pause point; None if the run waits at several, or if Sim doesn't report it
    question: str | None  # what the workflow's block asks, as text; None if it asks nothing or couldn't be read
    fields: dict[str, str]  # fields of the answer: their types in Sim by name, such as {"approved": "boolean"}
    pause_kind: str | None  # Sim's kind of the pause, such as "human"; None on servers without the v2 API
    resume_at: str | None  # ISO 8601 time at which the run continues without an answer, if it does
    approval_url: str  # page of Sim on which a person answers
