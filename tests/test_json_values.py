"""JSON values that Airflow can store, and the places of those that it can't."""

from __future__ import annotations

import pytest

from airflow_provider_sim.json_values import (
    MAX_DEPTH,
    UnstorableValueError,
    beyond_depth,
    place_of,
    printable,
    storable,
    well_formed,
)


def nested(levels, inner=None):
    for _ in range(levels):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("an \ud83d\ude00 in halves", "an 😀 in halves"),
        ("cut \ud83d", "cut \ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
    ],
)
def test_well_formed_joins_and_replaces_surrogates(text, expected):
    assert well_formed(text) == expected
    assert printable(f"{text}\0") == f"{expected}\ufffd"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 2**64}, {"a": "18446744073709551616"}),
        ({"a": -(2**63) - 1}, {"a": "-9223372036854775809"}),
        ([1e20, -1e300, 1e19, 0.5], ["1e+20", "-1e+300", 1e19, 0.5]),
        ([True, None, "x\ud83d"], [True, None, "x\ufffd"]),
        ({"\ud83d": [{"b": 10**20}]}, {"\ufffd": [{"b": "100000000000000000000"}]}),
    ],
)
def test_storable_converts_large_numbers_and_lone_surrogates(value, expected):
    assert storable(value) == expected


@pytest.mark.parametrize("value", [{"a": [1, 0.5, "x", {"__type": "a"}]}, 2**64 - 1, -(2**63), nested(MAX_DEPTH)])
def test_storable_leaves_other_values_unchanged(value):
    assert repr(storable(value)) == repr(value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("\0", "output"),
        ({"items": [1, 2, {"text": "a\0b"}]}, "output.items[2].text"),
        ({"a key": {"\0": 1}}, "output['a key']['\ufffd']"),
        ({"x": {"__classname__": 1}}, "output.x"),
        ([{"__id__": 1}], "output[0]"),
        ({"x": {"__type": 1, "__var": 2}}, "output.x"),
        ([float("nan")], "output[0]"),
        ([float("inf")], "output[0]"),
        (nested(MAX_DEPTH + 1), "output[0][0][0][0][0][0]…[0][0][0][0][0][0]"),
    ],
)
def test_storable_names_the_place_of_an_unstorable_value(value, place):
    with pytest.raises(UnstorableValueError) as caught:
        storable(value)
    assert place_of(caught.value.path, "output") == place


def test_recursive_value_is_beyond_any_depth():
    endless: list = []
    endless += [endless, endless]
    assert beyond_depth(endless, 50) is not None
    assert beyond_depth(nested(50), 50) is None
