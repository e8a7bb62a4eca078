"""Fields of a JSON object, read so that a wrong type is None and never an exception."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def mapping(value: object, key: str | None = None) -> dict[str, Any]:
    """The value, or the field ``key`` of it, if that is an object; else an empty one."""
    found = value.get(key) if key is not None and isinstance(value, Mapping) else value
    if key is not None and not isinstance(value, Mapping):
        return {}
    return found if isinstance(found, dict) else {}


def sequence(value: object, key: str) -> list[Any]:
    """The field if it is a list; else an empty one."""
    found = mapping(value).get(key)
    return found if isinstance(found, list) else []


def text(value: object, key: str) -> str | None:
    """The field if it is a non-empty string."""
    found = mapping(value).get(key)
    return found if isinstance(found, str) and found else None


def number(value: object, key: str) -> float | None:
    """The field if it is a finite number."""
    found = mapping(value).get(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        return float(found) if math.isfinite(found) else None
    except OverflowError:
        return None


def whole(value: object, key: str) -> int | None:
    """The field as a whole number."""
    found = number(value, key)
    return None if found is None else int(found)


def flag(value: object, key: str) -> bool | None:
    """The field if it is true or false."""
    found = mapping(value).get(key)
    return found if isinstance(found, bool) else None
