"""Readers of JSON fields: a wrong type is None, never an exception."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class MissingFieldError(ValueError):
    """A response is JSON, but lacks a field that Sim always sends."""


def mapping(value: object, key: str | None = None) -> dict[str, Any]:
    """Return the value, or its field ``key``, if that is an object; else an empty one."""
    found = value if key is None else value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, dict) else {}


def sequence(value: object, key: str) -> list[Any]:
    """Return the field if it is a list; else an empty one."""
    found = mapping(value).get(key)
    return found if isinstance(found, list) else []


def text(value: object, key: str) -> str | None:
    """Return the field if it is a non-empty string."""
    found = mapping(value).get(key)
    return found if isinstance(found, str) and found else None


def number(value: object, key: str) -> float | None:
    """Return the field if it is a finite number."""
    found = mapping(value).get(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        return float(found) if math.isfinite(found) else None
    except OverflowError:
        return None


def whole(value: object, key: str) -> int | None:
    """Return the field as an integer if it is a finite number."""
    found = number(value, key)
    return None if found is None else int(found)


def flag(value: object, key: str) -> bool | None:
    """Return the field if it is a boolean."""
    found = mapping(value).get(key)
    return found if isinstance(found, bool) else None


def required(found: T | None) -> T:
    """Return a field's value; raise MissingFieldError if it is None."""
    if found is None:
        raise MissingFieldError
    return found
