"""State of a batch: small, restored from JSON, with unique run IDs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_provider_sim.batch.state import (
    MAX_MESSAGE,
    MAX_MESSAGES,
    BatchState,
    ItemStatus,
    run_length_decode,
    run_length_encode,
)
from airflow_provider_sim.client.checks import check_run_id
from airflow_provider_sim.client.retry import new_run_id

BATCH = "airflow-00000000-0000-4000-8000-000000000000"


@given(st.lists(st.sampled_from(["a", "b", "12", "c"])))
def test_run_length_encoding_is_lossless(words):
    assert run_length_decode(run_length_encode(words)) == words


class TestSize:
    def test_typical_batch_state_is_small(self):
        state = BatchState(BATCH, ["w"] * 10_000)
        for index in range(10_000):
            state.set_status(index, ItemStatus.FAILED if index % 2500 == 7 else ItemStatus.COMPLETED)
        assert len(json.dumps(state.to_dict())) < 250

    def test_largest_state_fits_into_a_task_state_value(self):
        state = BatchState(BATCH, ["w"] * 10_000)
        for index in range(10_000):
            state.set_status(index, ItemStatus.REFUSED if index % 2 else ItemStatus.COMPLETED)
            if index % 2:
                state.next_attempt(index)
        assert len(json.dumps(state.to_dict())) < 65_535

    def test_reasons_are_truncated_and_limited(self):
        state = BatchState(BATCH, ["w"] * 10_000)
        for index in range(10_000):
            state.set_status(index, ItemStatus.REFUSED, reason=f"{index % 200} " + "x" * 1000)
        value = state.to_dict()
        assert len(value["reasons"]) == MAX_MESSAGES
        assert max(map(len, value["reasons"])) == MAX_MESSAGE
        read = BatchState.from_dict(value)
        assert read.reasons[7] == state.reasons[7]
        assert 199 not in read.reasons


class TestIds:
    @given(st.integers(1, 20_000), st.data())
    def test_run_id_contains_input_and_attempt(self, total, data):
        state = BatchState(new_run_id(), ["w"] * total)
        index = data.draw(st.integers(0, total - 1))
        for _ in range(data.draw(st.integers(0, 3))):
            state.next_attempt(index)
        run_id = check_run_id(state.run_id(index))
        assert state.parse_run_id(run_id) == (index, state.attempts[index])

    @given(st.text(max_size=20))
    def test_only_own_run_ids_are_parsed(self, text):
        state = BatchState(BATCH, ["w"] * 3)
        if found := state.parse_run_id(f"{BATCH}-{text}"):
            index, attempt = found
            if attempt > 1:
                state.next_attempt(index, minimum=attempt)
            assert state.run_id(index) == f"{BATCH}-{text}".removesuffix(".1")
        assert state.parse_run_id(text) is None

    def test_run_id_beyond_the_last_input_is_not_parsed(self):
        assert BatchState(BATCH, ["w"] * 3).parse_run_id(f"{BATCH}-3") is None

    def test_server_ids_are_used_until_the_next_attempt(self):
        state = BatchState(BATCH, ["w"] * 3)
        state.server_ids[1] = "of the server", "job-7"
        assert (state.run_id(1), state.job_id(1)) == ("of the server", "job-7")
        state.next_attempt(1)
        assert (state.run_id(1), state.job_id(1)) == (f"{BATCH}-1.2", None)


@pytest.mark.parametrize(
    "change",
    [
        {"since": None},
        {"statuses": "q"},
        {"attempts": "one"},
        {"workflows": "1"},
        {"reasons": []},
    ],
)
def test_invalid_state_is_rejected(change):
    value = BatchState(BATCH, ["w"]).to_dict()
    with pytest.raises((TypeError, ValueError, LookupError, AttributeError)):
        BatchState.from_dict(value | change)
    with pytest.raises(LookupError):
        BatchState.from_dict({key: value[key] for key in value if key not in change})


class AnyCourse(RuleBasedStateMachine):
    """Starts, rejections, outcomes and crashes in any order, compared with a model."""

    def __init__(self) -> None:
        super().__init__()
        self.state = BatchState(BATCH, ["w"] * 6)
        self.model = dict.fromkeys(range(6), ("u", 1))
        self.used: set[str] = set()

    def having(self, *statuses: str) -> list[int]:
        return [index for index, (status, _) in self.model.items() if status in statuses]

    def move(self, index: int, status: ItemStatus, attempt: int | None = None) -> None:
        self.state.set_status(index, status)
        self.model[index] = (status.value, attempt or self.model[index][1])

    @precondition(lambda self: self.having("u"))
    @rule()
    def send(self):
        index = self.state.next_unsent()
        assert index in self.having("u")
        self.used.add(self.state.run_id(index))
        self.move(index, ItemStatus.SENT)

    @precondition(lambda self: self.having("s"))
    @rule(data=st.data(), spent=st.booleans())
    def reject(self, data, spent):
        index = data.draw(st.sampled_from(self.having("s")))
        if spent:
            self.state.next_attempt(index)
            assert self.state.run_id(index) not in self.used, "a used ID is never reused"
        self.move(index, ItemStatus.UNSENT, self.model[index][1] + spent)
        assert self.state.next_unsent() == index, "a rejected input is next"

    @precondition(lambda self: self.having("s"))
    @rule(data=st.data())
    def accept(self, data):
        self.move(data.draw(st.sampled_from(self.having("s"))), ItemStatus.ACTIVE)

    @precondition(lambda self: self.having("a"))
    @rule(
        data=st.data(),
        status=st.sampled_from([ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.CANCELLED, ItemStatus.PAUSED]),
    )
    def finish(self, data, status):
        self.move(data.draw(st.sampled_from(self.having("a"))), status)

    @rule()
    def crash_and_restore(self):
        self.state = BatchState.from_dict(json.loads(json.dumps(self.state.to_dict())))
        for index in self.having("s"):
            self.model[index] = ("u", self.model[index][1])

    @invariant()
    def agrees_with_the_model(self):
        assert [self.state.statuses[index].value for index in range(6)] == [status for status, _ in self.model.values()]
        assert [self.state.attempts[index] for index in range(6)] == [attempt for _, attempt in self.model.values()]
        for status in ItemStatus:
            assert self.state.count(status) == len(list(self.state.indices(status)))
        assert self.state.is_finished == (not self.having("u", "s", "a"))
        assert (self.state.next_unsent() is None) == (not self.having("u"))


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.pytestmark = [pytest.mark.slow]
