"""Checks on JSON values: how deep they are nested, and whether Airflow can store them as XComs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 100  # levels of lists and objects; Airflow serializes XComs recursively, and its API rejects deeper ones

_RESERVED_KEYS = ("__classname__", "__id__")  # Airflow's serializer refuses them
_OLD_STYLE_KEYS = {"__type", "__var"}  # Airflow's deserializer replaces an object that has both
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1  # MessagePack's, in which Airflow 3 hands over XComs

Path = tuple[Any, ...]  # (), or the path of the list or object that contains the value, and its index or key


class UnstorableValueError(ValueError):
    """A value that Airflow can't store as an XCom; the reason doesn't contain the value itself."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(reason)
        self.path = path


def well_formed(text: str) -> str:
    """Join the halves of surrogate pairs, and replace halves without a partner, which UTF-8 can't encode, by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def printable(text: str) -> str:
    """Return a text that every log and database can hold."""
    return well_formed(text).replace("\0", "\ufffd")


def nodes(value: Any) -> Iterator[tuple[Any, Path, int]]:
    """Yield a value and each value inside it, with its path and depth; an endless one endlessly."""
    stack: list[tuple[Any, Path, int]] = [(value, (), 0)]
    while stack:
        node = stack.pop()
        yield node
        value, path, depth = node
        if isinstance(value, dict):
            stack.extend((item, (path, key), depth + 1) for key, item in reversed(value.items()))
        elif isinstance(value, list | tuple):
            stack.extend((item, (path, index), depth + 1) for index, item in reversed([*enumerate(value)]))


def beyond_depth(value: Any, limit: int) -> Path | None:
    """The path of a part that is nested deeper than ``limit`` levels, if there is one; also of a value in itself."""
    return next((path for _, path, depth in nodes(value) if depth > limit), None)


def place_of(path: Path, root: str) -> str:
    """A path as text: ``output.items[3].text``."""
    steps = []
    while path:
        path, step = path
        named = isinstance(step, str) and step.isidentifier()
        steps.append(f".{step}" if named else f"[{printable(str(step))!r}]" if isinstance(step, str) else f"[{step!r}]")
    if len(steps) > 12:
        steps[6:-6] = ["…"]
    return root + "".join(reversed(steps))


def storable(value: Any, path: Path = (), depth: int = 0) -> Any:
    """Return a JSON value as Airflow can store it, whichever the database.

    Numbers beyond 64-bit integers become text, floats too, because PostgreSQL returns a float without a fraction as an
    integer; single halves of surrogate pairs become U+FFFD.

    :raises UnstorableValueError: part of it has no equivalent that Airflow stores.
    """
    if depth > MAX_DEPTH:
        raise UnstorableValueError(f"it is nested deeper than {MAX_DEPTH} levels", path)
    if isinstance(value, dict):
        reserved = [key for key in _RESERVED_KEYS if key in value]
        reserved += sorted(_OLD_STYLE_KEYS) if value.keys() >= _OLD_STYLE_KEYS else []
        if reserved:
            keys = " and ".join(map(repr, reserved))
            raise UnstorableValueError(f"it has the key {keys}, which Airflow's serializer reserves", path)
        return {_storable_scalar(key, (path, key)): storable(value[key], (path, key), depth + 1) for key in value}
    if isinstance(value, list):
        return [storable(item, (path, index), depth + 1) for index, item in enumerate(value)]
    return _storable_scalar(value, path)


def _storable_scalar(value: Any, path: Path) -> Any:
    if isinstance(value, str):
        if "\0" in value:
            raise UnstorableValueError("it contains the character U+0000, which PostgreSQL doesn't store", path)
        return well_formed(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UnstorableValueError(f"it is {value}, which JSON doesn't have", path)
    if isinstance(value, int | float) and not _MIN_INTEGER <= value <= _MAX_INTEGER:
        return repr(value)
    return value
