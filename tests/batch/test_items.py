"""What may be handed in, and what is refused before anything is sent."""

from __future__ import annotations

import json

import pytest

from airflow_provider_sim.batch.items import read_items
from airflow_provider_sim.client.blocking import SimClient
from airflow_provider_sim.exceptions import Outcome, SimInputError


class LazySequence:
    """As Airflow hands on the outputs of mapped tasks."""

    def __init__(self, *values):
        self._values = values

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        return self._values[index]

    def __iter__(self):
        return iter(self._values)


@pytest.mark.parametrize(
    "given",
    [
        [{"a": 1}, "text", None],
        ({"a": 1}, "text", None),
        LazySequence({"a": 1}, "text", None),
        '[{"a": 1}, "text", null]',
        (value for value in [{"a": 1}, "text", None]),
    ],
    ids=["list", "tuple", "outputs of mapped tasks", "JSON", "generator"],
)
def test_inputs_of_one_workflow(given):
    items = read_items(given, "wf")
    assert items.inputs == ({"a": 1}, "text", None)
    assert [items.workflow_of(index) for index in range(len(items))] == ["wf"] * 3


def test_pairs_name_their_workflows():
    pairs = [{"workflow_id": name, "input": number} for number, name in enumerate(["b", "a", "b"])]
    items = read_items(pairs, None)
    assert items.workflows == ("b", "a")
    assert [items.workflow_of(index) for index in range(3)] == ["b", "a", "b"]
    assert items.inputs == (0, 1, 2)


def test_a_pair_without_an_input_has_none():
    assert read_items([{"workflow_id": "a"}], None).inputs == (None,)


@pytest.mark.parametrize(
    ("given", "workflow_id", "message"),
    [
        ({"a": 1}, "wf", "inputs is a dict; it must be a list"),
        (7, "wf", "inputs is a int; it must be a list"),
        (None, "wf", "inputs is a NoneType"),
        ("[{'a': 1}]", "wf", r"not JSON .*tojson"),
        ('{"a": 1}', "wf", "inputs is a dict"),
        ([{}], "", "workflow_id is ''"),
        ([{"workflow_id": "a", "input": 1}, {"input": 1}], None, r"inputs\[1\] can't be run.*must be a dict of"),
        ([{"workflow_id": "a", "inputs": 1}], None, r"inputs\[0\] can't be run.*and nothing else"),
        (["x"], None, r"inputs\[0\] can't be run"),
        ([{"workflow_id": "a"}, {"workflow_id": " a"}], None, r"inputs\[1\] can't be run.*contains spaces"),
        ([{"workflow_id": None}], None, r"inputs\[0\] can't be run.*workflow_id is None"),
    ],
)
def test_what_can_not_be_run_is_named(given, workflow_id, message):
    with pytest.raises(SimInputError, match=message) as caught:
        read_items(given, workflow_id)
    assert caught.value.outcome is Outcome.NEVER_SENT


@pytest.mark.parametrize(
    ("value", "api_version", "message"),
    [
        ({"x": {1, 2}}, "v2", r"inputs\[2\].*can't be written as JSON"),
        ({"x": float("nan")}, "v2", r"inputs\[2\].*can't be written as JSON"),
        ({"x": "y" * 11_000_000}, "v2", r"inputs\[2\].*at most 10 MiB"),
        ({"stream": True}, "legacy", r"inputs\[2\].*control fields"),
    ],
    ids=["no JSON", "no number", "too large", "a control field"],
)
def test_what_sim_would_not_take_is_named(value, api_version, message):
    client = SimClient("sk-sim-x", "http://127.0.0.1:9", api_version=api_version)
    items = read_items([{"a": 1}, None, value], "wf")
    with pytest.raises(SimInputError, match=message) as caught:
        items.check(client.check_input)
    assert caught.value.workflow_id == "wf"


def test_a_control_field_of_the_old_api_is_no_matter_for_the_new_one():
    client = SimClient("sk-sim-x", "http://127.0.0.1:9", api_version="v2")
    read_items([{"stream": True}], "wf").check(client.check_input)


class TestFiles:
    def test_are_refused_as_sim_converts_none_of_them(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("hello")
        with pytest.raises(SimInputError, match=r"inputs\[1\].*has files in 'report'"):
            read_items([{"report": 1}, {"report": path}], "wf").with_files("fail")

    def test_or_sent_as_they_are(self):
        items = read_items([{"report": b"hello"}, None, 7], "wf").with_files("send")
        assert items.inputs[0]["report"]["data"].endswith("aGVsbG8=")
        assert items.inputs[1:] == (None, 7)


class TestDigest:
    def test_is_of_the_inputs_their_order_and_their_workflows(self):
        same = read_items([{"a": 1, "b": 2}, 3], "wf").digest()
        assert read_items(json.loads('[{"b": 2, "a": 1}, 3]'), "wf").digest() == same
        pairs = [{"workflow_id": "wf", "input": {"a": 1, "b": 2}}, {"workflow_id": "wf", "input": 3}]
        assert read_items(pairs, None).digest() == same
        others = [([3, {"a": 1, "b": 2}], "wf"), ([{"a": 1, "b": 2}, 3], "other"), ([{"a": 1, "b": 2}], "wf")]
        assert len({read_items(*other).digest() for other in others} | {same}) == 4
