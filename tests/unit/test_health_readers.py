"""What readers are told of an index from the recorded readings, and from their age."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, update

from agent_pipelines.health.evaluate import record
from agent_pipelines.health.readers import false_pages, not_true
from agent_pipelines.health.signal import TICK_MAY_BE_OLD, Reading, Signal, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.indexing.search import Doubt
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import signals

#: As by default.
OFTEN = timedelta(minutes=10)


@pytest.fixture
def engine(state_url: str) -> Engine:
    """All signals of index `docs` were true just now."""
    opened = open_engine(state_url)
    record(opened, "docs", {signal: Reading(State.TRUE, "all", "all") for signal in catalogue()})
    return opened


def doubts(engine: Engine, index: str = "docs", *, audit_every: timedelta = OFTEN) -> list[Doubt]:
    return not_true(engine, index, audit_every=audit_every)


def said(engine: Engine) -> dict[str, tuple[str, str]]:
    return {doubt.signal: (doubt.state, doubt.reason) for doubt in doubts(engine)}


def named(name: str) -> Signal:
    return next(signal for signal in catalogue() if signal.name == name)


def age(engine: Engine, by: timedelta, *names: str) -> None:
    with write(engine) as connection:
        connection.execute(
            update(signals)
            .where(signals.c.name.in_(names))
            .values(evaluated_at=datetime.now(UTC) - by)
        )


def test_where_all_is_well_nothing_is_said(engine: Engine) -> None:
    assert said(engine) == {}


def test_what_is_false_or_cannot_be_told_is_said_with_its_reason(engine: Engine) -> None:
    readings = {
        named("counts_match"): Reading(State.FALSE, "9 objects", "10"),
        named("fresh"): Reading(State.CANNOT_TELL, "the mount is missing", ""),
    }
    record(engine, "docs", readings)
    assert said(engine) == {
        "counts_match": ("false", "9 objects"),
        "fresh": ("cannot tell", "the mount is missing"),
    }
    assert [doubt.signal for doubt in false_pages(doubts(engine))] == ["counts_match"]


def test_an_index_that_nobody_ever_looked_at_is_not_said_to_be_well(engine: Engine) -> None:
    found = doubts(engine, "another")
    assert {doubt.signal for doubt in found} == {signal.name for signal in catalogue()}
    assert {(doubt.state, doubt.since) for doubt in found} == {("cannot tell", None)}


def test_a_dead_watcher_shows_in_every_result(engine: Engine) -> None:
    """The last thing it said was that all is well; nobody has looked since."""
    beyond = TICK_MAY_BE_OLD + timedelta(minutes=1)
    age(engine, beyond, *(signal.name for signal in catalogue()))
    found = said(engine)
    assert set(found) == {signal.name for signal in catalogue() if signal.depth == "tick"}
    for state, reason in found.values():
        assert state == "cannot tell"
        assert "not evaluated for 0:06:00" in reason
    age(engine, timedelta(days=2), *(signal.name for signal in catalogue()))
    assert set(said(engine)) == {signal.name for signal in catalogue()}


def test_an_audit_is_news_until_the_next_one_should_have_been(engine: Engine) -> None:
    audited = {signal.name for signal in catalogue() if signal.depth == "audit"}
    for hours, every, old in (
        (2, OFTEN, True),
        (24, timedelta(days=1), False),
        (25, timedelta(days=1), True),
    ):
        age(engine, timedelta(hours=hours), *audited)
        found = doubts(engine, audit_every=every)
        assert {doubt.signal for doubt in found} == (audited if old else set())


def test_bad_news_does_not_get_better_with_age(engine: Engine) -> None:
    record(engine, "docs", {named("counts_match"): Reading(State.FALSE, "9 objects", "10")})
    age(engine, timedelta(days=2), "counts_match")
    state, reason = said(engine)["counts_match"]
    assert state == "false"
    assert "9 objects; last evaluated 2 days" in reason
