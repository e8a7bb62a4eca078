"""The journal: whatever happens, it is small, can be read again, and gives no two runs one id."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_provider_sim.batch.state import MAX_MESSAGE, MAX_MESSAGES, BatchState, ItemStatus, squeezed, unsqueezed
from airflow_provider_sim.client.ids import check_run_id
from airflow_provider_sim.client.steps import new_run_id

BATCH = "airflow-00000000-0000-4000-8000-000000000000"


@given(st.lists(st.sampled_from(["a", "b", "12", "c"])))
def test_squeezing_loses_nothing(words):
    assert unsqueezed(squeezed(words)) == words


class TestSize:
    def test_ten_thousand_runs_take_a_line(self):
        journal = BatchState(BATCH, 10_000)
        for index in range(10_000):
            journal.stands(index, ItemStatus.FAILED if index % 2500 == 7 else ItemStatus.COMPLETED)
        assert len(json.dumps(journal.written())) < 250

    def test_and_the_worst_of_cases_fits_into_a_task_s_state(self):
        journal = BatchState(BATCH, 10_000)
        for index in range(10_000):
            journal.stands(index, ItemStatus.REFUSED if index % 2 else ItemStatus.COMPLETED)
            if index % 2:
                journal.renew(index)
        assert len(json.dumps(journal.written())) < 65_535

    def test_reasons_are_cut_and_said_once(self):
        journal = BatchState(BATCH, 10_000)
        for index in range(10_000):
            journal.stands(index, ItemStatus.REFUSED, why=f"{index % 200} " + "x" * 1000)
        written = journal.written()
        assert len(written["why"]) == MAX_MESSAGES
        assert max(map(len, written["why"])) == MAX_MESSAGE
        read = BatchState.read(written)
        assert read.why(7) == journal.why(7)
        assert "log" in read.why(199), "those beyond the most that are kept"


class TestIds:
    @given(st.integers(1, 20_000), st.data())
    def test_an_id_tells_its_input_and_attempt(self, total, data):
        journal = BatchState(new_run_id(), total)
        index = data.draw(st.integers(0, total - 1))
        for _ in range(data.draw(st.integers(0, 3))):
            journal.renew(index)
        run_id = check_run_id(journal.run_id(index))
        assert journal.read_id(run_id) == (index, journal.attempt(index))

    @given(st.text(max_size=20))
    def test_others_tell_nothing(self, text):
        journal = BatchState(BATCH, 3)
        found = journal.read_id(f"{BATCH}-{text}")
        assert found is None or f"{BATCH}-{text}" == journal.own_id(*found)
        assert journal.read_id(text) is None

    def test_one_beyond_the_last_input_is_none_of_ours(self):
        assert BatchState(BATCH, 3).read_id(f"{BATCH}-3") is None

    def test_what_the_server_calls_a_run_goes_before_and_ends_with_the_attempt(self):
        journal = BatchState(BATCH, 3)
        journal.is_called(1, "of the server", "job-7")
        assert (journal.run_id(1), journal.job_id(1)) == ("of the server", "job-7")
        journal.renew(1)
        assert (journal.run_id(1), journal.job_id(1)) == (f"{BATCH}-1.2", None)


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"batch_id": BATCH},
        {"batch_id": BATCH, "standings": "q", "attempts": "1"},
        {"batch_id": BATCH, "standings": "c*2", "attempts": "1"},
        {"batch_id": BATCH, "standings": "c", "attempts": "one"},
        {"batch_id": BATCH, "standings": None, "attempts": None},
        {"batch_id": BATCH, "standings": "r", "attempts": "1", "why": [], "why_of": {"0": 3}},
        {"batch_id": BATCH, "standings": "c", "attempts": "1", "why_of": []},
    ],
)
def test_what_is_no_journal_is_refused(written):
    with pytest.raises(ValueError, match="no batch's state"):
        BatchState.read(written)


class AnyCourse(RuleBasedStateMachine):
    """Starts, refusals, ends and deaths in any order, beside a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = BatchState(BATCH, 6)
        self.model = dict.fromkeys(range(6), ("u", 1))
        self.used: set[str] = set()

    def those(self, *standings: str) -> list[int]:
        return [index for index, (standing, _) in self.model.items() if standing in standings]

    def move(self, index: int, standing: ItemStatus, attempt: int | None = None) -> None:
        self.journal.stands(index, standing)
        self.model[index] = (standing.value, attempt or self.model[index][1])

    @precondition(lambda self: self.those("u"))
    @rule()
    def send(self):
        index = self.journal.next_unsent()
        assert index in self.those("u")
        self.used.add(self.journal.run_id(index))
        self.move(index, ItemStatus.SENT)

    @precondition(lambda self: self.those("s"))
    @rule(data=st.data(), spent=st.booleans())
    def refuse(self, data, spent):
        index = data.draw(st.sampled_from(self.those("s")))
        if spent:
            self.journal.renew(index)
            assert self.journal.run_id(index) not in self.used, "an id that is used up never comes back"
        self.move(index, ItemStatus.UNSENT, self.model[index][1] + spent)
        assert self.journal.next_unsent() == index, "what was refused comes next"

    @precondition(lambda self: self.those("s"))
    @rule(data=st.data())
    def accept(self, data):
        self.move(data.draw(st.sampled_from(self.those("s"))), ItemStatus.ACTIVE)

    @precondition(lambda self: self.those("a"))
    @rule(
        data=st.data(),
        end=st.sampled_from([ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.CANCELLED, ItemStatus.PAUSED]),
    )
    def end(self, data, end):
        self.move(data.draw(st.sampled_from(self.those("a"))), end)

    @rule()
    def die_and_read(self):
        self.journal = BatchState.read(json.loads(json.dumps(self.journal.written())))
        for index in self.those("s"):
            self.model[index] = ("u", self.model[index][1])

    @invariant()
    def agrees_with_the_model(self):
        assert [self.journal[index].value for index in range(6)] == [standing for standing, _ in self.model.values()]
        assert [self.journal.attempt(index) for index in range(6)] == [attempt for _, attempt in self.model.values()]
        for standing in ItemStatus:
            assert self.journal.count(standing) == len(list(self.journal.indices(standing)))
        assert self.journal.is_over == (not self.those("u", "s", "a"))
        assert (self.journal.next_unsent() is None) == (not self.those("u"))


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.pytestmark = [pytest.mark.slow]
