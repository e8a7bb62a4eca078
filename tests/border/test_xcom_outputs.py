"""Outputs that are no plain XCom, in every way to wait, under ``dag.test()``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy

from airflow_provider_sim.emulator import Match
from airflow_provider_sim.json_values import storable
from scripts.servers import postgresql, postgresql_programs

pytestmark = pytest.mark.airflow

HELD, QUEUED, DEFERRED = {}, {"async_execution": True}, {"deferrable": True}
MODES = {"held": HELD, "queued": QUEUED, "deferred": DEFERRED}

UNSTORABLE = {
    "nul": {"items": [1, {"text": "a\0b"}]},
    "reserved": {"of": {"__classname__": "x"}},
    "old_style": {"of": {"__type": "dict", "__var": {"a": 1}}},
    "deep": [[1]],
}
for _ in range(300):
    UNSTORABLE["deep"] = [UNSTORABLE["deep"]]
CHANGED = {
    "half": ({"text": "cut \ud83d"}, {"text": "cut \ufffd"}),
    "big": ({"n": 10**20, "x": 1e20, "m": -(2**63)}, {"n": str(10**20), "x": "1e+20", "m": -(2**63)}),
}

DAG = """
    def store(task_id):
        return {"task_id": task_id, "large_outputs": "store", "output_files_dir": Path("FOLDER") / task_id}

    with DAG("d", schedule=None):
        for name in NAMES:
            for mode, how in MODES.items():
                Op(task_id=f"{name}_{mode}", workflow_id=name, poll_interval=0.5, **how)
            Op(workflow_id=name, **store(f"{name}_stored"))
            start = Op(task_id=f"{name}_started", workflow_id=name, wait_for_completion=False)
            Sensor(task_id=f"{name}_sensor", workflow_id=name, run_id=start.output, poke_interval=0.5)
        for mode, how in MODES.items():
            Op(workflow_id="plain", poll_interval=0.5, **how, **store(f"path_{mode}"))
        batch = dict(workflow_id="one_of", inputs=[{"name": name} for name in [*NAMES, "plain"]], poll_interval=0.5)
        Batch(task_id="batch", on_error="collect", **batch)
        Batch(**batch, **store("batch_stored"))
        large = dict(workflow_id="large", input={"count": 9000}, check_input="off", poll_interval=0.5)
        for mode, how in MODES.items():
            Op(task_id=f"large_{mode}", **large, **how)
        Op(**large, **store("large_stored"))
        Op(task_id="one_selector", workflow_id="talk", stream=True, selected_outputs="Agent.content")
        Op(task_id="both_halves", workflow_id="halves", stream=True, selected_outputs=["Agent.content"])
        Op(task_id="misspelled", workflow_id="talk", stream=True, selected_outputs=["Agnet.content"])
        Op(task_id="one_misspelled", workflow_id="talk", stream=True,
           selected_outputs=["Agent.content", "Agnet.content"])
        Op(task_id="misspelled_field", workflow_id="function", stream=True, selected_outputs=["Function.nothing"])
        Op(task_id="function_field", workflow_id="function", stream=True, selected_outputs=["Function.content"])
        Op(task_id="block_id", workflow_id="function", selected_outputs="BLOCK.content")
        Op(task_id="block_id_deferred", workflow_id="function", selected_outputs="BLOCK.content", deferrable=True,
           poll_interval=0.5)
        Op(task_id="unknown_block_id", workflow_id="function", selected_outputs="0" * 8 + "BLOCK"[8:])
        Op(task_id="talkative", workflow_id="talkative", stream=True, selected_outputs="Agent.content", timeout=2)
        Op(task_id="lost", workflow_id="lost", stream=True, selected_outputs="Agent.content",
           retry_args={"initial_delay": 0.1})
"""


def test_outputs_are_stored_in_xcom_or_rejected(dag_test, sim, tmp_path):
    values = {**UNSTORABLE, **{name: sent for name, (sent, _) in CHANGED.items()}, "plain": {"a": 1}}
    for name, value in values.items():
        sim.workflow(name)(lambda given, value=value: value)
    sim.workflow("one_of")(lambda given: values[given["name"]])
    sim.workflow("talk", chunks=lambda given: ["one ", "two"], block="Agent")(lambda given: {"content": "one two"})
    sim.workflow("halves", chunks=lambda given: ["one \ud83d", "\ude00 two \ud83d"], block="Agent")(lambda given: {})
    sim.workflow("function")(lambda given: {"content": "text"})
    block = sim.state.workflows["function"].block_id
    sim.workflow("talkative", chunks=lambda given: ["word "] * 200, chunk_delay=0.1, block="Agent")(lambda given: {})
    sim.workflow("lost", chunks=lambda given: ["one ", "two"], block="Agent")(lambda given: {"content": "one two"})
    sim.fault("cut_stream", match=Match(operation="execute", workflow_id="lost"))
    source = DAG.replace("FOLDER", str(tmp_path)).replace("BLOCK", block)
    source = f"    NAMES, MODES = {[*UNSTORABLE, *CHANGED]!r}, {MODES!r}\n{source}"
    result = dag_test(source)
    states, outputs, log = result.states, result.outputs, result.log

    for name in UNSTORABLE:
        assert {states[f"{name}_{how}"] for how in [*MODES, "sensor"]} == {"failed"}, name
        stored = outputs[f"{name}_stored"]
        assert json.loads(Path(stored["output_path"]).read_bytes()) == UNSTORABLE[name]
        assert Path(stored["output_path"]).stat().st_size == stored["size"]
    for place in (
        "output.items[1].text, it contains the character U+0000",
        "output.of, it has the key '__classname__'",
    ):
        assert log.count(f"as an XCom: at {place}") >= 4
    assert "output.of, it has the key '__type' and '__var'" in log
    assert "it is nested deeper than 100 levels" in log
    for name, (_, expected) in CHANGED.items():
        for how in [*MODES, "stored", "sensor"]:
            assert outputs[f"{name}_{how}"] == expected
    for how in MODES:
        assert outputs[f"path_{how}"] == {"a": 1}

    *entries, plain = outputs["batch"]
    assert [entry["status"] for entry in entries] == ["completed"] * len(entries)
    for name, entry in zip([*UNSTORABLE, *CHANGED], entries, strict=True):
        if name in CHANGED:
            assert entry["output"] == CHANGED[name][1]
        else:
            assert "Airflow can't store the output" in entry["error"]
    assert plain["output"] == {"a": 1}
    assert [sorted(entry) for entry in outputs["batch_stored"][:4]] == [["output_path", "size"]] * 4
    assert outputs["batch_stored"][-1] == {"a": 1}

    assert {states[f"large_{how}"] for how in [*MODES, "stored"]} == {"failed"}
    assert "is incomplete: at output.result.blob, Sim sent a reference instead of the value (9,216,002 bytes)" in log

    agent = sim.state.workflows["talk"].block_id
    assert outputs["one_selector"] == {agent: "one two"}
    assert outputs["both_halves"] == {sim.state.workflows["halves"].block_id: "one 😀 two \ufffd"}
    assert outputs["function_field"] == {block: {"content": "text"}}
    assert outputs["block_id"] == outputs["block_id_deferred"] == {f"{block}.content": "text"}
    for task_id in ("misspelled", "one_misspelled", "misspelled_field", "unknown_block_id", "talkative", "lost"):
        assert states[task_id] == "failed", task_id
    assert "its stream had no output for Agnet.content" in log
    assert "its stream had no output for Agent.content, Agnet.content" in log
    assert "its stream had no output for Function.nothing" in log
    assert "completed, but its stream was lost" in log
    [talkative] = sim.runs_of("talkative")
    assert talkative.status == "cancelled"
    assert "UnicodeEncodeError" not in log
    assert "RecursionError: " not in log


@pytest.mark.skipif(postgresql_programs() is None, reason="no PostgreSQL server is installed")
def test_postgresql_stores_exactly_the_storable_outputs(tmp_path):
    def is_stored(value):
        try:
            with engine.begin() as connection:
                stored = connection.execute(query, {"value": json.dumps(value)}).scalar()
        except sqlalchemy.exc.DBAPIError:
            return False
        return json.loads(json.dumps(stored)) == value

    query = sqlalchemy.text("SELECT CAST(:value AS jsonb)")
    with postgresql(tmp_path / "postgresql.log") as (uri, _):
        engine = sqlalchemy.create_engine(uri)
        try:
            for sent, expected in CHANGED.values():
                assert storable(sent) == expected
                assert is_stored(expected)
            for value in (2**64 - 1, -(2**63), {"a": [None, True, 0.1, "😀 \\u007f"]}):
                assert is_stored(storable(value))
            for value in ({"a": "\0"}, {"\0": 1}, {"a": "\ud83d"}, float("nan")):
                assert not is_stored(value)
        finally:
            engine.dispose()
