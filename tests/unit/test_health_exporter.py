"""The exporter's clocks and what a scrape gets, over subjects that answer, hang or burst."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from time import monotonic
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent_pipelines.health.evaluate import Recorded
from agent_pipelines.health.exporter.ageing import Bounds, Shown, shown
from agent_pipelines.health.exporter.metrics import Readings
from agent_pipelines.health.exporter.worker import Fleet, Look, Sample, Seen
from agent_pipelines.health.signal import Reading, Signal, State, holds
from tests.processes import until

TRUE, FALSE, CANNOT_TELL = State.TRUE, State.FALSE, State.CANNOT_TELL

INTERVAL = 0.05
BOUNDS = Bounds.of(tick_every=30, audit_every=600)

#: Ten minutes, as by default.
OFTEN = timedelta(minutes=10)


def a_signal(name: str, depth: Any = "tick") -> Signal[Any]:
    return Signal(
        name=name,
        statement="it is so",
        severity="page",
        depth=depth,
        guards="live",
        repair="person",
        runbook="",
        evaluate=lambda _: holds(True, "", ""),
    )


TICKED, AUDITED = a_signal("ticked"), a_signal("audited", "audit")


@pytest.mark.parametrize(
    ("state", "age", "since", "expected"),
    [
        (TRUE, 5, 100, Shown(TRUE, 5, 100)),
        (FALSE, 90, 100, Shown(FALSE, 90, 100)),
        # Too old: neither the good news nor the bad is repeated; unknown since it became too old.
        (TRUE, 91, 100, Shown(CANNOT_TELL, 91, 1)),
        (FALSE, 500, 900, Shown(CANNOT_TELL, 500, 410)),
        # It was unknown before, and is so still.
        (CANNOT_TELL, 500, 900, Shown(CANNOT_TELL, 500, 900)),
        (None, 12, 0, Shown(CANNOT_TELL, inf, 12)),
    ],
)
def test_a_reading_that_is_too_old_tells_nothing(
    state: State | None, age: float, since: float, expected: Shown
) -> None:
    assert shown(state, age=age, since=since, bound=BOUNDS.tick) == expected


def test_a_reading_is_good_for_three_ticks_or_two_audits() -> None:
    assert (BOUNDS.tick, BOUNDS.audit) == (90, 1200)


def test_an_audit_that_is_made_once_a_day_may_be_no_later_than_others() -> None:
    daily = Bounds.of(tick_every=30, audit_every=86_400)
    assert daily.audit == 86_400 + 50 * 60


def reading(name: str, state: State, *, age: float, in_state: float) -> Recorded:
    """One that was taken `age` seconds ago, in a state that it had been in for so long by then."""
    at = datetime.now(UTC) - timedelta(seconds=age)
    return Recorded(name, state, at - timedelta(seconds=in_state), at, "", "", ())


def scrape(*seen: Seen) -> dict[str, float]:
    """Every sample as Prometheus reads it: `name{label=value,…}`, without the prefix."""
    registry = CollectorRegistry()
    registry.register(Readings(lambda: seen, lambda: 7, tick_every=30))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            name = sample.name.removeprefix("agent_pipelines_")
            found[f"{name}{{{labels}}}"] = sample.value
    return found


def looked(ended: float, audit_every: timedelta = OFTEN, **readings: Recorded) -> Seen:
    """A subject whose last look ended so many seconds ago."""
    now = monotonic()
    return Seen(
        "docs",
        (TICKED, AUDITED),
        born=now - 9_999,
        ended=now - ended,
        took=0.25,
        readings=readings,
        samples=(
            Sample("staleness_seconds", {"index": "docs"}, 4),
            Sample("documents", {"index": "docs", "state": "indexed"}, 12),
        ),
        audit_every=audit_every,
    )


def state_of(found: dict[str, float], signal: str) -> str:
    """The one state that is 1."""
    states = [
        state
        for state in ("true", "false", "cannot_tell")
        if found[f"signal{{severity=page,signal={signal},state={state},subject=docs}}"] == 1
    ]
    assert len(states) == 1, states
    return states[0]


def test_a_scrape_has_every_metric_of_the_contract() -> None:
    found = scrape(
        looked(
            10,
            ticked=reading("ticked", TRUE, age=10, in_state=50),
            audited=reading("audited", FALSE, age=700, in_state=100),
        )
    )
    assert (state_of(found, "ticked"), state_of(found, "audited")) == ("true", "false")

    def near(name: str, value: float) -> None:
        assert found[name] == pytest.approx(value, abs=2)

    near("signal_age_seconds{signal=ticked,subject=docs}", 10)
    near("signal_age_seconds{signal=audited,subject=docs}", 700)
    near("signal_state_seconds{signal=ticked,subject=docs}", 60)
    near("signal_state_seconds{signal=audited,subject=docs}", 800)
    near("exporter_tick_age_seconds{subject=docs}", 10)
    assert found["exporter_tick_seconds{subject=docs}"] == 0.25
    assert found["exporter_sequence_total{}"] == 7
    assert found["staleness_seconds{index=docs}"] == 4
    assert found["documents{index=docs,state=indexed}"] == 12
    assert found["reading_age_limit_seconds{depth=audit,subject=docs}"] == 3_600


def test_the_audit_of_an_index_is_as_good_as_its_own_schedule_says() -> None:
    """What is news of one that is audited once a day is none of one that is every ten minutes."""
    hours_ago = reading("audited", TRUE, age=20 * 3_600, in_state=50)
    daily = scrape(looked(1, timedelta(days=1), audited=hours_ago))
    assert state_of(daily, "audited") == "true"
    assert daily["reading_age_limit_seconds{depth=audit,subject=docs}"] == 24 * 3_600 + 3_000
    assert state_of(scrape(looked(1, audited=hours_ago)), "audited") == "cannot_tell"
    missed = reading("audited", TRUE, age=25 * 3_600, in_state=50)
    assert state_of(scrape(looked(1, timedelta(days=1), audited=missed)), "audited") == (
        "cannot_tell"
    )


def test_what_was_seen_too_long_ago_is_neither_repeated_nor_counted() -> None:
    found = scrape(
        looked(
            91,
            ticked=reading("ticked", TRUE, age=91, in_state=50),
            audited=reading("audited", TRUE, age=1201, in_state=50),
        )
    )
    assert (state_of(found, "ticked"), state_of(found, "audited")) == ("cannot_tell",) * 2
    assert "staleness_seconds{index=docs}" not in found
    assert found["exporter_tick_age_seconds{subject=docs}"] >= 91


def test_what_was_never_seen_cannot_be_told_and_is_older_than_anything() -> None:
    found = scrape(Seen("docs", (TICKED, AUDITED), born=monotonic() - 20))
    assert (state_of(found, "ticked"), state_of(found, "audited")) == ("cannot_tell",) * 2
    assert found["signal_age_seconds{signal=ticked,subject=docs}"] == inf
    assert found["exporter_tick_age_seconds{subject=docs}"] == pytest.approx(20, abs=2)


def test_a_clock_that_was_set_back_keeps_no_reading_young() -> None:
    ahead = reading("ticked", TRUE, age=-3600, in_state=0)
    assert state_of(scrape(looked(91, ticked=ahead)), "ticked") == "cannot_tell"


@dataclass
class Told:
    """A subject that answers as it is told to."""

    name: str = "docs"
    signals: Sequence[Signal[Any]] = (TICKED, AUDITED)
    audit_every: timedelta = OFTEN
    answer: Callable[[], Look] = lambda: Look({TICKED: Reading(TRUE, "fine", "")})
    looks: int = 0
    said: list[str] = field(default_factory=list)

    def look(self) -> Look:
        self.looks += 1
        return self.answer()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def fleet(said: list[str]) -> Iterator[Fleet]:
    made = Fleet(interval=INTERVAL, say=said.append)
    made.supervise()
    yield made
    made.stop(0)


def seen(fleet: Fleet, name: str = "docs") -> Seen:
    return next(one for one in fleet.seen if one.subject == name)


def test_the_sequence_counts_every_look(fleet: Fleet) -> None:
    fleet.watch([Told("a"), Told("b")])
    before = until(lambda: fleet.sequence, 10, "a look")
    until(lambda: fleet.sequence > before + 5, 10, "more of them")


def test_one_that_hangs_stops_nobody_else_and_is_given_up(fleet: Fleet, said: list[str]) -> None:
    release = threading.Event()

    def hang_at_first() -> Look:
        if hung.looks == 1:
            release.wait(60)
            return Look({TICKED: Reading(FALSE, "of long ago", "")})
        return Look({TICKED: Reading(TRUE, "of now", "")})

    hung, well = Told("hung", answer=hang_at_first), Told("well")
    fleet.watch([hung, well])
    until(lambda: well.looks > 5, 10, "looks at the other one")
    assert (hung.looks, seen(fleet, "hung").ended) == (1, None)
    until(lambda: seen(fleet, "hung").ended, 30, "a look that was begun again")
    assert any("hangs" in line for line in said)
    release.set()  # it comes back after all, and what it says is of no interest any more
    for _ in range(3):
        before = hung.looks
        until(lambda before=before: hung.looks > before, 10, "another look")  # type: ignore[misc]
        assert seen(fleet, "hung").readings["ticked"].observed == "of now"


def test_a_look_that_bursts_is_a_reading_and_not_the_end(fleet: Fleet, said: list[str]) -> None:
    def burst() -> Look:
        raise ZeroDivisionError("a bug")

    told = Told(answer=burst)
    fleet.watch([told])
    until(lambda: told.looks > 2, 10, "looks after a burst")
    found = seen(fleet).readings["ticked"]
    assert (found.state, found.observed) == (CANNOT_TELL, "ZeroDivisionError: a bug")
    assert fleet.alive
    changes = [line for line in said if "ticked" in line]
    assert changes == ["docs ticked: true → cannot tell (ZeroDivisionError: a bug)"], "said once"


def test_since_when_is_as_recorded_and_as_remembered_where_nothing_can_be(fleet: Fleet) -> None:
    known = reading("ticked", TRUE, age=0, in_state=5_000)
    told = Told(answer=lambda: Look({TICKED: Reading(TRUE, "", "")}, {"ticked": known}))
    fleet.watch([told])
    until(lambda: seen(fleet).ended, 10, "a look")
    assert seen(fleet).readings["ticked"].since == known.since
    told.answer = lambda: Look({TICKED: Reading(TRUE, "the database is down", "")})
    until(lambda: seen(fleet).readings["ticked"].observed, 10, "a look without the database")
    assert seen(fleet).readings["ticked"].since == known.since
    told.answer = lambda: Look({TICKED: Reading(FALSE, "and something is false", "")})
    until(lambda: seen(fleet).readings["ticked"].state is FALSE, 10, "a change")
    assert seen(fleet).readings["ticked"].since > known.since


def test_an_index_that_comes_is_watched_and_one_that_went_is_not(fleet: Fleet) -> None:
    fleet.watch([Told("stays"), Told("goes")])
    fleet.watch([Told("stays"), Told("comes")])
    assert {one.subject for one in fleet.seen} == {"stays", "comes"}
    until(lambda: seen(fleet, "comes").ended, 10, "a look at the new one")


def test_it_stops_though_a_look_hangs() -> None:
    release = threading.Event()

    def hang() -> Look:
        release.wait(60)
        return Look({})

    fleet = Fleet(interval=INTERVAL, say=print)
    hung = Told(answer=hang)
    fleet.watch([hung, Told("well")])
    until(lambda: hung.looks, 10, "a look that hangs")
    assert not fleet.stop(0.1)
    release.set()
    assert fleet.stop(10)
