"""Since when the source has been ahead of what is live: never understated, never invented."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from agent_pipelines.indexing import changes
from agent_pipelines.indexing.ledger import DocumentRow, DocumentWrite, Ledger
from agent_pipelines.indexing.listing import Listing
from agent_pipelines.indexing.plan import make_plan
from agent_pipelines.indexing.sources import Ref
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import listings, source_changes

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def minutes(n: float) -> datetime:
    return NOON + timedelta(minutes=n)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine("sqlite:///")


@pytest.fixture(autouse=True)
def _empty(engine: Engine) -> None:
    empty(engine)


def empty(engine: Engine) -> None:
    with write(engine) as connection:
        connection.execute(delete(source_changes))
        connection.execute(delete(listings))


INDEXED = [DocumentRow("a", "1", "indexed")]


def observe(engine: Engine, at: datetime, *refs: Ref) -> None:
    changes.observe(engine, "i", make_plan(Listing(refs), INDEXED), listed_at=at, seconds=1)


def test_a_change_between_two_listings_dates_from_the_sources_own_time(engine: Engine) -> None:
    observe(engine, minutes(0), Ref("a", "1"))
    assert changes.oldest(engine, "i") is None
    observe(engine, minutes(10), Ref("a", "2", minutes(3)))
    assert changes.oldest(engine, "i") == minutes(3)


@pytest.mark.parametrize("modified", [None, minutes(-9999), minutes(9999)])
def test_else_from_the_listing_before_it(engine: Engine, modified: datetime | None) -> None:
    """Copied in with an old time it is not stale since then; with a future one neither."""
    observe(engine, minutes(0), Ref("a", "1"))
    observe(engine, minutes(10), Ref("a", "2", modified))
    assert changes.oldest(engine, "i") == minutes(0)


def test_a_deletion_dates_from_the_listing_before_it(engine: Engine) -> None:
    observe(engine, minutes(0), Ref("a", "1"))
    observe(engine, minutes(10))
    assert changes.oldest(engine, "i") == minutes(0)


def test_a_second_edit_does_not_make_the_document_younger(engine: Engine) -> None:
    observe(engine, minutes(0), Ref("a", "1"))
    observe(engine, minutes(10), Ref("a", "2", minutes(5)))
    observe(engine, minutes(20), Ref("a", "3", minutes(15)))
    assert changes.oldest(engine, "i") == minutes(5)


def test_an_edit_that_was_taken_back_is_forgotten(engine: Engine) -> None:
    observe(engine, minutes(0), Ref("a", "1"))
    observe(engine, minutes(10), Ref("a", "2"))
    observe(engine, minutes(20), Ref("a", "1"))
    assert changes.oldest(engine, "i") is None


def test_without_an_earlier_listing_a_change_dates_from_this_one(engine: Engine) -> None:
    observe(engine, minutes(10), Ref("a", "2", minutes(-9999)))
    assert changes.oldest(engine, "i") == minutes(10)


def test_indexes_do_not_see_each_others_changes(engine: Engine) -> None:
    observe(engine, minutes(0), Ref("a", "2"))
    assert changes.oldest(engine, "other") is None


@settings(max_examples=30)
@given(st.lists(st.integers(0, 120), min_size=2, max_size=6, unique=True), st.data())
def test_staleness_is_never_understated_and_never_older_than_the_listing_before(
    engine: Engine, times: list[int], data: st.DataObject
) -> None:
    """Whatever the source says of its times, the true moment of change bounds the date."""
    empty(engine)
    listed = sorted(times)
    changed = data.draw(st.integers(listed[0], listed[-1] - 1)) + 0.5
    claimed = data.draw(st.sampled_from([None, minutes(changed), minutes(-500), minutes(500)]))
    for at in listed:
        ref = Ref("a", "2", claimed) if at > changed else Ref("a", "1")
        observe(engine, minutes(at), ref)
    since = changes.oldest(engine, "i")
    assert since is not None
    assert since <= minutes(changed)
    assert since >= minutes(max(at for at in listed if at < changed))


def test_only_what_the_live_ledger_holds_is_forgotten(engine: Engine) -> None:
    ledger = Ledger(engine, "i", "C")
    refs = [Ref("a", "2"), Ref("b", "1"), Ref("c", "1"), Ref("d", "1")]
    observe(engine, minutes(0), *refs)
    writes = [DocumentWrite(ref, "h", (), {}, ()) for ref in refs]
    ledger.begin(writes[:3])
    ledger.confirm(writes[:1])
    ledger.fail([(refs[1], "garbled")])
    changes.forget(engine, "i", "C")
    with engine.connect() as connection:
        left = {row.document_id for row in connection.execute(source_changes.select())}
    assert left == {"c", "d"}, "pending and unknown ones are not live; a failed one was dealt with"


def test_a_failed_document_always_counts_as_one(engine: Engine) -> None:
    ledger = Ledger(engine, "i", "C2")
    ledger.fail([(Ref("x", "1"), "")])
    assert list(ledger.failures()) == ["x"]
    assert ledger.counts().failed == 1
