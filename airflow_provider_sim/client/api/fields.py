"""Readers of JSON fields: a wrong type is None, never an exception."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

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


def camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


_READERS: dict[str, Any] = {"str": text, "int": whole, "float": number, "bool": flag}


def model(kind: type[T], value: object, **given: Any) -> T:
    """Return a dataclass with the fields of a JSON object that have the same names, in camel case, and types.

    ``given`` has the fields that are read in another way.

    :raises MissingFieldError: a field without a default is missing.
    """
    for field in dataclasses.fields(cast(Any, kind)):
        reader = _READERS.get(str(field.type).removesuffix(" | None"))
        if reader is None or field.name in given:
            continue
        found = reader(value, camel_case(field.name))
        if found is None and field.default is dataclasses.MISSING:
            raise MissingFieldError
        given[field.name] = field.default if found is None else found
    return kind(**given)
