"""The catalogue of signals, since when each has been so, and what blindness looks like."""

from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update

from agent_pipelines.errors import UnavailableError
from agent_pipelines.health import view as view_module
from agent_pipelines.health.evaluate import evaluate, record, recorded, tick
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing import changes
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.sources import Ref, SourceError
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import generations, partitions, signals, snapshots
from tests.engine import HashEmbedder, MemorySource, make_index

#: What can be told without the store; of an empty index also that nothing is to be found.
WITHOUT_STORE = {
    *("documents_complete", "documents_indexed", "fresh", "golden_vector_matches"),
    *("listing_trusted", "spec_is_current"),
    *("deleted_items_not_served", "known_items_found", "search_serves_snapshot"),
}


FRESH = next(signal for signal in catalogue() if signal.name == "fresh")


class DownStore:
    """Every question to it ends as a store that does not answer."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise UnavailableError("Weaviate does not answer", remedy="start it")

        return call


@pytest.fixture
def engine(state_url: str) -> Engine:
    return open_engine(state_url)


@pytest.fixture
def committed(engine: Engine) -> Index:
    """An index that was committed, empty, and whose store is down now."""
    index = make_index("docs", MemorySource(), DownStore(), engine)
    now = datetime.now(UTC)
    with write(engine) as connection:
        connection.execute(
            insert(generations).values(
                collection="Docs__1",
                index_name="docs",
                fingerprint=index.spec.fingerprint,
                spec=index.spec.as_dict(),
                state="live",
                created_at=now,
            )
        )
        connection.execute(
            insert(partitions).values(
                collection="Docs__1", number=0, of=1, source_digest="d", listed_at=now
            )
        )
        connection.execute(
            insert(snapshots).values(
                index_name="docs",
                sequence=1,
                collection="Docs__1",
                source_digest="d",
                manifest_digest="m",
                documents=0,
                failed_documents=0,
                chunks=0,
                listed_at=now,
                committed_at=now,
            )
        )
    return index


def states(index: Index, *, which: tuple[Signal, ...] | None = None) -> dict[str, State]:
    with View(index, committed=True) as view:
        readings = evaluate(view, which or catalogue())
    return {signal.name: reading.state for signal, reading in readings.items()}


def test_every_signal_can_be_told_apart_and_acted_upon() -> None:
    found = catalogue()
    assert len({signal.name for signal in found}) == len(found) >= 8
    for signal in found:
        assert signal.name.isidentifier()
        assert signal.statement.strip()
        assert not signal.statement.endswith("."), "a clause: the check's text adds the full stop"
        assert len(signal.runbook) > 40, f"{signal.name}: what to do, for whoever is woken by it"
    assert len({signal.runbook for signal in found}) == len(found)
    assert {s.name for s in tick()} == {s.name for s in found if s.depth == "tick"}


def test_a_signal_is_one_file_named_like_it() -> None:
    folder = Path(catalogue.__code__.co_filename).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {signal.name for signal in catalogue()}


def test_a_store_that_is_down_makes_nothing_false(committed: Index) -> None:
    """No false alarm, and no good news either."""
    found = states(committed)
    assert {name for name, state in found.items() if state is State.TRUE} == WITHOUT_STORE
    assert {state for name, state in found.items() if name not in WITHOUT_STORE} == {
        State.CANNOT_TELL
    }
    assert "does not answer" in recorded(committed.engine, "docs")["counts_match"].observed


def test_a_source_that_cannot_be_listed_or_only_in_part_makes_nothing_false(
    committed: Index,
) -> None:
    class Gone(MemorySource):
        def list(self) -> Any:
            raise SourceError("the mount is missing")

    partial = MemorySource()
    partial.incomplete = "page 2 timed out"
    for source, reason in ((Gone(), "the mount is missing"), (partial, "page 2 timed out")):
        assert states(replace(committed, source=source))["fresh"] is State.CANNOT_TELL
        assert reason in recorded(committed.engine, "docs")["fresh"].observed


def test_a_source_that_cannot_be_listed_is_asked_once_by_all_signals(committed: Index) -> None:
    class Down(MemorySource):
        asked = 0

        def list(self) -> Iterator[Ref]:
            self.asked += 1
            raise SourceError("the share is not mounted")

    index = replace(committed, source=(down := Down()))
    found = states(index)
    assert found["fresh"] is found["listing_trusted"] is State.CANNOT_TELL
    assert down.asked == 1


def test_an_index_that_was_never_committed_is_nothing_that_can_be_told(engine: Engine) -> None:
    assert set(states(make_index("new", MemorySource(), DownStore(), engine)).values()) == {
        State.CANNOT_TELL
    }


def test_one_signal_that_breaks_does_not_hide_the_others(committed: Index) -> None:
    def burst(_: View) -> Reading:
        raise ZeroDivisionError("a bug")

    broken = replace(catalogue()[0], name="broken", evaluate=burst)
    found = states(committed, which=(broken, *catalogue()))
    assert found["broken"] is State.CANNOT_TELL
    assert len(found) == len(catalogue()) + 1
    assert "ZeroDivisionError: a bug" in recorded(committed.engine, "docs")["broken"].observed


def test_a_changed_spec_is_not_current(committed: Index) -> None:
    assert states(committed)["spec_is_current"] is State.TRUE
    other = replace(committed, embedder=HashEmbedder("another"))
    assert states(other)["spec_is_current"] is State.FALSE


def test_staleness_is_false_only_beyond_its_bound(committed: Index) -> None:
    changed = MemorySource({"new.md": "# New"})
    fresh = replace(committed, source=changed, max_staleness_seconds=60)
    assert states(fresh)["fresh"] is State.TRUE
    assert "1 changes not live" in recorded(committed.engine, "docs")["fresh"].observed
    # Time has passed: the bound is behind it.
    assert states(replace(fresh, max_staleness_seconds=-1))["fresh"] is State.FALSE
    (row,) = recorded(committed.engine, "docs")["fresh"].evidence
    assert row == {"document": "new.md", "change": "new or changed"}


class SlowSource(MemorySource):
    """Every document takes its time to be listed."""

    seconds = 0.1

    def list(self) -> Iterator[Ref]:
        for ref in super().list():
            sleep(self.seconds)
            yield ref


@pytest.fixture
def slow(committed: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """That index, whose source takes longer to list than anybody but a run waits for."""
    monkeypatch.setattr(view_module, "_PATIENCE", 0.15)
    assert states(committed)["fresh"] is State.TRUE, "while it is empty, it is listed in no time"
    return replace(committed, source=SlowSource({"a": "# A", "b": "# B", "c": "# C"}))


def listed_by_a_run(index: Index) -> Reading:
    with View(index, committed=True, in_run=True) as view:
        return next(iter(evaluate(view, [FRESH]).values()))


def fresh(index: Index) -> Reading:
    with View(index, committed=True) as view:
        return next(iter(evaluate(view, [FRESH]).values()))


def wants_listing(index: Index) -> bool:
    with View(index, committed=True) as view:
        return view.wants_listing


def test_a_source_that_takes_long_to_list_is_judged_by_the_last_run_that_did(slow: Index) -> None:
    assert "which a run does" in fresh(slow).observed
    assert listed_by_a_run(slow).observed.endswith("s, 3 changes not live")

    source = slow.source
    assert isinstance(source, SlowSource)
    source.texts["d"] = "# D"
    reading = fresh(slow)
    assert reading.state is State.TRUE
    assert "3 changes not live, listed " in reading.observed, "it did not list again"
    assert [row["document"] for row in reading.evidence] == ["a", "b", "c"]

    sleep(0.2)
    impatient = replace(slow, max_staleness_seconds=0.1)
    assert fresh(impatient).state is State.CANNOT_TELL, "of later changes nobody knows"
    assert wants_listing(replace(slow, max_staleness_seconds=0.4))
    assert not wants_listing(replace(slow, max_staleness_seconds=60)), "not all the time"


def test_a_source_that_is_quick_again_is_listed_by_everybody(slow: Index) -> None:
    fresh(slow)
    quick = replace(slow, source=MemorySource({"a": "# A"}))
    assert listed_by_a_run(quick).state is State.TRUE
    assert not wants_listing(replace(quick, max_staleness_seconds=0))
    assert fresh(replace(slow, source=MemorySource())).observed == "0 s, 0 changes not live"


def test_a_look_that_was_killed_over_its_listing_is_not_repeated(slow: Index) -> None:
    changes.begin(slow.engine, "docs", datetime.now(UTC) - timedelta(seconds=40))
    assert "0 changes not live, listed " in fresh(slow).observed
    assert wants_listing(replace(slow, max_staleness_seconds=0))


def test_a_long_listing_that_fails_is_not_hidden_by_the_one_before(slow: Index) -> None:
    listed_by_a_run(slow)
    source = slow.source
    assert isinstance(source, SlowSource)
    source.seconds, source.incomplete = 0, "page 2 timed out"
    assert listed_by_a_run(slow).state is State.CANNOT_TELL
    reading = fresh(slow)
    assert reading.state is State.CANNOT_TELL
    assert "page 2 timed out" in reading.observed


def test_since_moves_only_with_the_state(engine: Engine) -> None:
    signal = catalogue()[0]

    def read(state: State, observed: str) -> Any:
        record(engine, "docs", {signal: Reading(state, observed, "all")})
        return recorded(engine, "docs")[signal.name]

    first = read(State.TRUE, "1 of 1")
    second = read(State.TRUE, "2 of 2")
    assert second.since == first.since
    assert second.evaluated_at > first.evaluated_at
    assert second.observed == "2 of 2"
    third = read(State.FALSE, "1 of 2")
    assert third.since == third.evaluated_at > second.evaluated_at
    fourth = read(State.CANNOT_TELL, "?")
    assert fourth.since > third.since
    assert fields(fourth)


def test_subjects_do_not_share_readings(engine: Engine) -> None:
    signal = catalogue()[0]
    record(engine, "one", {signal: Reading(State.TRUE, "", "")})
    assert recorded(engine, "other") == {}
    with write(engine) as connection:
        connection.execute(update(signals).values(subject="other"))
    assert list(recorded(engine, "other")) == [signal.name]
