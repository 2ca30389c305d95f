"""Parked rows: none lost, none twice, one at a time tries, and nobody before it is due."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent_pipelines.agents.parking import Parking, pause

SERVERS = st.sampled_from(["model", "search"])


class Row:
    """Like all others, and itself."""


class Parkings(RuleBasedStateMachine):
    """Against a model that knows only who waits for what, and who runs."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.parking: Parking[Row] = Parking(clock=lambda: self.now, chance=lambda: 0.5)
        self.running: list[Row] = []
        self.waits: dict[Row, str] = {}
        self.asked_for: dict[str, float] = {}
        """Before then nobody may try, as the server said."""

    @rule()
    def begin(self) -> None:
        self.running.append(Row())

    @rule(what=SERVERS, retry_after=st.none() | st.floats(0, 100), data=st.data())
    def park(self, what: str, retry_after: float | None, data: st.DataObject) -> None:
        if self.running:
            row = data.draw(st.sampled_from(self.running))
            self.running.remove(row)
            self.parking.park(row, what, retry_after)
            self.waits[row] = what
            if retry_after:
                self.asked_for[what] = self.now + retry_after

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.running:
            row = data.draw(st.sampled_from(self.running))
            self.running.remove(row)
            self.parking.ended(row)

    @rule(what=SERVERS)
    def answer(self, what: str) -> None:
        self.parking.answered(what)
        self.asked_for.pop(what, None)
        assert what not in self.parking.down
        for row in [row for row, waits in self.waits.items() if waits == what]:
            self.waits[row] = "nothing"

    @rule(seconds=st.floats(0, 60))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        due = self.parking.due
        trying = self.parking.trying
        row = self.parking.take()
        assert (row is not None) == (due == 0.0)
        if row is None:
            return
        what = self.waits.pop(row)
        self.running.append(row)
        if what == "nothing":
            assert self.parking.trying == trying
        else:
            assert "nothing" not in self.waits.values()
            assert self.now >= self.asked_for.get(what, 0.0)
            assert self.parking.trying == trying + 1

    @invariant()
    def none_is_lost_and_none_is_there_twice(self) -> None:
        assert len(self.parking) == len(self.waits)
        waiting = Counter(what for what in self.waits.values() if what != "nothing")
        assert sum(self.parking.down.values()) == waiting.total() + self.parking.trying

    @invariant()
    def one_at_a_time_tries(self) -> None:
        assert self.parking.trying <= len(self.parking.down)

    def teardown(self) -> None:
        """In the end everybody gets away, whatever does not answer."""
        for row in self.running:
            self.parking.ended(row)
        for _ in range(len(self.parking)):
            self.now += 200.0
            taken = self.parking.take()
            assert taken is not None
            self.parking.ended(taken)
        assert not self.parking
        assert not self.parking.down


TestParkings = Parkings.TestCase


@given(tries=st.integers(0, 10_000), chance=st.floats(0, 1), retry_after=st.floats(0, 1e6))
def test_pauses_grow_up_to_half_a_minute_and_heed_what_was_asked(
    tries: int, chance: float, retry_after: float
) -> None:
    alone = pause(tries, None, chance)
    assert 0.25 <= alone <= 30
    assert alone <= pause(tries + 1, None, 1.0)
    assert pause(tries, retry_after, chance) == max(alone, retry_after)


def test_rows_take_turns_at_trying() -> None:
    """So that one that a server cannot stand does not keep the others from finding it well."""
    now = 0.0
    parking: Parking[Row] = Parking(clock=lambda: now, chance=lambda: 0.5)
    rows = [Row(), Row(), Row()]
    for row in rows:
        parking.park(row, "model")
    tried = []
    for _ in range(6):
        now += 100
        row = parking.take()
        assert row is not None
        assert parking.take() is None
        tried.append(rows.index(row))
        parking.park(row, "model")
    assert tried == [0, 1, 2, 0, 1, 2]
