"""What may be handed in, and what is refused before anything is sent."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from airflow_provider_sim.batch.items import read_items
from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.exceptions import Outcome, SimInputError
from airflow_provider_sim.task.input import SimFile


class LazySequence:
    """A sequence like the one Airflow passes for outputs of mapped tasks."""

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
        [{"a": 1}, '{"b": 2}', None],
        ({"a": 1}, '{"b": 2}', None),
        LazySequence({"a": 1}, '{"b": 2}', None),
        '[{"a": 1}, "{\\"b\\": 2}", null]',
        (value for value in [{"a": 1}, '{"b": 2}', None]),
    ],
    ids=["list", "tuple", "outputs of mapped tasks", "JSON", "generator"],
)
def test_inputs_of_one_workflow(given):
    items = read_items(given, "wf")
    assert items.inputs == ({"a": 1}, {"b": 2}, {})
    assert items.workflows == ("wf",) * 3


def test_pairs_name_their_workflows():
    pairs = [{"workflow_id": name, "input": number} for number, name in enumerate(["b", "a", "b"])]
    items = read_items(pairs, None)
    assert items.workflows == ("b", "a", "b")
    assert items.inputs == ({"input": 0}, {"input": 1}, {"input": 2})


def test_pair_without_an_input_has_no_fields():
    assert read_items([{"workflow_id": "a"}], None).inputs == ({},)


@pytest.mark.parametrize(
    ("given", "workflow_id", "message"),
    [
        ({"a": 1}, "wf", "inputs is a dict; it must be a list"),
        (7, "wf", "inputs is a int; it must be a list"),
        (None, "wf", "inputs is a NoneType"),
        ("[{'a': 1}]", "wf", r"not JSON .*tojson"),
        ('{"a": 1}', "wf", "inputs is a dict"),
        ([{}], "", "workflow_id is ''"),
        ([{"workflow_id": "a", "input": 1}, {"input": 1}], None, r"inputs\[1\] is invalid.*must be a dict of"),
        ([{"workflow_id": "a", "inputs": 1}], None, r"inputs\[0\] is invalid.*and nothing else"),
        (["x"], None, r"inputs\[0\] is invalid"),
        ([{"workflow_id": "a"}, {"workflow_id": " a"}], None, r"inputs\[1\] is invalid.*contains spaces"),
        ([{"workflow_id": None}], None, r"inputs\[0\] is invalid.*workflow_id is None"),
    ],
)
def test_invalid_inputs_are_rejected(given, workflow_id, message):
    with pytest.raises(SimInputError, match=message) as caught:
        read_items(given, workflow_id)
    assert caught.value.outcome is Outcome.NEVER_SENT


@pytest.mark.parametrize(
    ("value", "api_version", "message"),
    [
        ({"x": float("nan")}, "v2", r"inputs\[2\].*can't be written as JSON"),
        ({"x": "y" * 11_000_000}, "v2", r"inputs\[2\].*up to 10 MiB"),
        ({"stream": True}, "legacy", r"inputs\[2\].*control fields"),
    ],
    ids=["no number", "too large", "a control field"],
)
def test_input_rejected_by_the_api_is_named(value, api_version, message):
    client = SimClient("sk-sim-x", "http://127.0.0.1:9", api_version=api_version)
    items = read_items([{"a": 1}, None, value], "wf")
    with pytest.raises(SimInputError, match=message) as caught:
        items.check(client.check_input)
    assert caught.value.workflow_id == "wf"


def test_legacy_control_field_is_accepted_on_v2():
    client = SimClient("sk-sim-x", "http://127.0.0.1:9", api_version="v2")
    read_items([{"stream": True}], "wf").check(client.check_input)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"hello", r"inputs\[1\].*SimHook.upload_file"),
        ({"of": [SimFile(b"hello")]}, r"inputs\[1\].*SimHook.upload_file"),
        ([{"type": "file", "data": "data:,", "name": "a"}], r"inputs\[1\].*in sync runs only"),
    ],
)
def test_files_are_rejected(value, message):
    with pytest.raises(SimInputError, match=message):
        read_items(iter([{"report": 1}, {"report": value}]), "wf")


def test_reference_to_a_file_passes():
    reference = {"id": "wf_1", "name": "a", "url": "/api/files/serve/k?context=workspace", "size": 1, "key": "k"}
    assert read_items([{"report": [reference]}], "wf").inputs == ({"report": [reference]},)


class TestDigest:
    def test_digest_covers_inputs_order_and_workflows(self):
        same = read_items([{"a": 1, "b": 2}, 3], "wf").digest
        assert read_items(json.loads('[{"b": 2, "a": 1}, 3]'), "wf").digest == same
        pairs = [{"workflow_id": "wf", "input": {"a": 1, "b": 2}}, {"workflow_id": "wf", "input": 3}]
        assert read_items(pairs, None).digest == same
        others = [([3, {"a": 1, "b": 2}], "wf"), ([{"a": 1, "b": 2}, 3], "other"), ([{"a": 1, "b": 2}], "wf")]
        assert len({read_items(*other).digest for other in others} | {same}) == 4

    @pytest.mark.parametrize("value", [{1, 2}, {"a": 1, 2: 3}, {"at": timedelta(1)}], ids=repr)
    def test_digest_of_non_json_input_is_an_error(self, value):
        with pytest.raises(SimInputError, match=r"inputs\[1\] is invalid.*written as JSON"):
            read_items([None, {"x": value}], "wf")
