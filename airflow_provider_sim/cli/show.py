"""Output of the commands: text, or one JSON value, on stdout; notices go to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from airflow_provider_sim.exceptions import SimError


def result(arguments: Any, value: Any, text: str) -> None:
    """Print a value as JSON, or the text."""
    print(json.dumps(value, ensure_ascii=False) if arguments.output else text)


def notice(message: str) -> None:
    print(message, file=sys.stderr)


def error(arguments: Any, error: SimError) -> None:
    notice(f"Error: {error}")
    if arguments.output:
        result(arguments, {"error": {"code": error.code, "message": str(error), "run_id": error.run_id}}, "")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines of aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
