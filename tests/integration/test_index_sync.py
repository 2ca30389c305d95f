"""A sync against a real Weaviate: the store is what the source is, at the price of the change.

Vectors do not matter here, so the embedder is a hash; everything else is what a user has.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from agent_pipelines.errors import UserError
from agent_pipelines.health.signal import State
from agent_pipelines.indexing import changes, generations, live
from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.golden import GOLDEN_TEXT
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import CommitError, commit, latest
from agent_pipelines.indexing.search import IndexSearcher
from agent_pipelines.indexing.sources import Document, GoneError, Ref
from agent_pipelines.indexing.sync import Change, SyncError
from agent_pipelines.state import leases
from agent_pipelines.state.engine import open_engine, write
from tests.engine import (
    Crash,
    HashEmbedder,
    MemorySource,
    TrippingStore,
    assert_exact,
    assert_healthy,
    collection_of,
    document,
    failures,
    raw,
    run_sync,
    section,
    states,
    stored_in,
    tombstones_of,
    wanted_chunks,
)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"d{n}.md": document(f"Doc{n}", "one", "two", "three") for n in range(4)})


def embedded_by(index: Index) -> list[str]:
    """What the model was asked for, but for the golden text that every change begins with."""
    assert isinstance(index.embedder, HashEmbedder)
    return [text for text in index.embedder.texts if text != GOLDEN_TEXT]


def forget_embedded(index: Index) -> None:
    assert isinstance(index.embedder, HashEmbedder)
    index.embedder.texts.clear()


def test_cold_sync_makes_the_store_equal_to_the_source(index: Index, source: MemorySource) -> None:
    report = run_sync(index)
    snapshot = commit(index)

    wanted = wanted_chunks(index, source)
    assert_exact(index, source)
    assert (report.listed, report.written, report.retired) == (4, len(wanted), 0)
    assert report.embedded == len({chunk.text for chunk in wanted.values()})
    assert index.store.alias_target(index.alias) == report.collection == snapshot.collection
    assert (snapshot.sequence, snapshot.documents, snapshot.chunks) == (1, 4, len(wanted))
    assert_healthy(index)


def test_equal_text_in_many_documents_is_embedded_once(index: Index, source: MemorySource) -> None:
    source.texts = {f"{n}.md": section("same") for n in range(5)}
    assert run_sync(index).embedded == 1
    assert len(stored_in(index)) == 5
    assert_exact(index, source)


def test_a_sync_without_changes_reads_embeds_and_writes_nothing(
    index: Index, source: MemorySource
) -> None:
    run_sync(index)
    first = commit(index)
    source.loaded.clear()
    forget_embedded(index)
    watched = TrippingStore(index.store, lambda: None, "none")

    report = run_sync(replace(index, store=watched))  # type: ignore[arg-type]

    assert (report.changed, report.written, report.retired) == (0, 0, 0)
    assert source.loaded == []
    assert embedded_by(index) == []
    assert set(watched.calls) <= {"collections", "count", "deviations", "note"}, "only cheap reads"
    assert commit(index) == first, "nothing new is committed"


def test_an_edit_changes_exactly_the_chunks_of_its_section(
    index: Index, source: MemorySource
) -> None:
    run_sync(index)
    before = stored_in(index)
    source.texts["d1.md"] = document("Doc1", "one", "zwei", "three")

    report = run_sync(index)

    after = stored_in(index)
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    assert {before[id_].chunk.text.split("\n")[0] for id_ in gone} == {"## two"}
    assert {after[id_].chunk.text.split("\n")[0] for id_ in new} == {"## zwei"}
    assert (report.written, report.retired) == (len(new), len(gone))
    assert tombstones_of(index) == dict.fromkeys(gone, "d1.md"), "old citations still resolve"
    assert_exact(index, source)


def test_a_section_put_in_front_moves_the_others_without_embedding_them(
    index: Index, source: MemorySource
) -> None:
    source.texts["d1.md"] = section("one") + section("two")
    run_sync(index)
    before = stored_in(index)
    forget_embedded(index)
    source.texts["d1.md"] = section("zero") + section("one") + section("two")

    # The title of a document without a heading is its id, so only the new section is new.
    run_sync(index)

    after = stored_in(index)
    assert before.keys() < after.keys()
    assert len(embedded_by(index)) == len(after) - len(before)
    assert_exact(index, source)


def test_a_deleted_document_takes_exactly_its_chunks_along(
    index: Index, source: MemorySource
) -> None:
    run_sync(index)
    before = stored_in(index)
    del source.texts["d2.md"]

    report = run_sync(index)

    gone = before.keys() - stored_in(index).keys()
    assert {before[id_].chunk.document_id for id_ in gone} == {"d2.md"}
    assert report.changes == (Change("d2.md", "deleted"),)
    assert tombstones_of(index) == dict.fromkeys(gone, "d2.md")
    assert_exact(index, source)


def test_an_unreadable_document_is_failed_served_as_it_was_and_healed_later(
    index: Index, source: MemorySource
) -> None:
    run_sync(index)
    commit(index)
    before = stored_in(index)
    good, source.texts["d0.md"] = source.texts["d0.md"], None

    report = run_sync(index)
    snapshot = commit(index)

    assert report.failed == 1
    assert failures(index) == {"d0.md": "cannot be read"}
    assert stored_in(index).keys() == before.keys(), "what was indexed of it is still served"
    assert (snapshot.documents, snapshot.failed_documents) == (3, 1)
    assert states(index)["documents_indexed"] is State.FALSE
    assert run_sync(index).changed == 1, "every sync tries it again"

    source.texts["d0.md"] = good
    assert run_sync(index).failed == 0
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_an_index_of_which_nothing_could_be_read_never_becomes_live(
    index: Index, source: MemorySource
) -> None:
    source.texts = {"a": None, "b": None}
    run_sync(index)
    with pytest.raises(CommitError, match="none of its 2 documents"):
        commit(index)
    assert index.store.alias_target(index.alias) is None


@pytest.mark.parametrize("listing", ["empty", "incomplete", "truncated"])
def test_a_doubtful_listing_deletes_nothing(
    index: Index, source: MemorySource, listing: str
) -> None:
    source.texts = {f"{n}.md": section(f"s{n}", words=6) for n in range(60)}
    run_sync(index)
    before = stored_in(index)
    if listing == "incomplete":
        source.incomplete = "page 2 did not answer"
    source.texts = dict(list(source.texts.items())[: 0 if listing == "empty" else 8])

    with pytest.raises(SyncError, match=r"Nothing was deleted|did not answer"):
        run_sync(index)

    assert stored_in(index).keys() == before.keys()
    assert index.ledger(collection_of(index)).counts().documents == 60
    if listing != "incomplete":
        run_sync(index, accept_deletions=True)
        assert_exact(index, source)


def test_a_new_spec_is_built_beside_and_swapped_while_searches_go_on(
    index: Index, source: MemorySource
) -> None:
    run_sync(index)
    commit(index)
    first = collection_of(index)
    searcher = IndexSearcher({index.name: index})
    changed = replace(index, chunker=ChunkerSpec(64, 0))
    searched = TrippingStore(
        index.store,
        lambda: hits.append(len(searcher.search(index.name, "two", limit=3).hits)),
        "write",
    )
    hits: list[int] = []

    run_sync(replace(changed, store=searched))  # type: ignore[arg-type]

    assert hits == [3], "found in the old generation while the new one is written"
    assert index.store.alias_target(index.alias) == first
    assert states(changed)["spec_is_current"] is State.TRUE, "what is configured is on its way"
    commit(changed)
    second = collection_of(changed)
    assert index.store.alias_target(index.alias) == second != first
    assert first in index.store.collections(), "kept for rollback"
    assert_exact(changed, source)
    assert_healthy(changed)

    third = replace(index, chunker=ChunkerSpec(32, 0))
    run_sync(third)
    commit(third)
    assert first not in index.store.collections(), "only one old generation is kept"
    assert second in index.store.collections()


def test_going_back_to_an_old_spec_keeps_the_generation_that_was_just_live(
    index: Index, source: MemorySource
) -> None:
    """The one to keep is the one readers had last, not the one that was created last."""
    first, second, third = (replace(index, chunker=ChunkerSpec(n, 0)) for n in (128, 64, 32))
    for each in (first, second, first):
        run_sync(each)
        commit(each)
    just_live = collection_of(first)
    run_sync(third)
    commit(third)
    assert just_live in index.store.collections()


@pytest.mark.parametrize("accepted", [False, True])
def test_an_empty_listing_is_doubtful_for_a_new_spec_too(
    index: Index, source: MemorySource, accepted: bool
) -> None:
    """A new generation has nothing to delete, but readers would lose what they have."""
    run_sync(index)
    commit(index)
    source.texts = {}
    changed = replace(index, chunker=ChunkerSpec(64, 0))
    if accepted:
        run_sync(changed, accept_deletions=True)
        return
    with pytest.raises(SyncError, match=r"Nothing was deleted|did not answer"):
        run_sync(changed)
    assert states(index)["alias_points_to_live"] is State.TRUE


def test_staleness_is_not_forgotten_while_a_new_generation_is_built(
    index: Index, source: MemorySource
) -> None:
    """What is in the new generation and not live yet is still waiting, since it was first seen."""
    run_sync(index)
    commit(index)
    source.texts["d0.md"] = document("Doc0", "edited")
    states(index)
    since = changes.oldest(index.engine, index.name)
    changed = replace(index, chunker=ChunkerSpec(64, 0))
    for _ in range(2):
        run_sync(changed)
        assert changes.oldest(index.engine, index.name) == since is not None
    commit(changed)
    assert changes.oldest(index.engine, index.name) is None


def test_a_lost_state_database_is_rebuilt_beside_what_readers_have(
    index: Index, source: MemorySource, tmp_path: Path
) -> None:
    run_sync(index)
    commit(index)
    old = collection_of(index)
    lost = replace(index, engine=open_engine(f"sqlite:///{tmp_path / 'new.db'}"))

    texts, source.texts = source.texts, {}
    with pytest.raises(SyncError, match=r"readers are served \d+ chunks"):
        run_sync(lost)
    source.texts = texts
    run_sync(lost)

    assert index.store.alias_target(index.alias) == old, "readers keep the old one until commit"
    commit(lost)
    assert index.store.alias_target(index.alias) == collection_of(lost) != old
    assert_exact(lost, source)
    assert_healthy(lost)


def test_a_commit_killed_after_its_snapshot_is_finished_by_the_next(
    index: Index, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sync(index)
    with monkeypatch.context() as patch:
        patch.setattr(generations, "make_live", lambda *_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            commit(index)
    assert generations.live(index.engine, index.name) is None

    snapshot = commit(index)

    assert snapshot.sequence == 1, "the same snapshot, not another one"
    assert_healthy(index)


def test_nothing_is_committed_while_a_sync_is_unfinished(
    index: Index, source: MemorySource
) -> None:
    def crash() -> None:
        raise Crash

    crashing = replace(index, store=TrippingStore(index.store, crash, "write", after=True))  # type: ignore[arg-type]
    with pytest.raises(Crash):
        run_sync(crashing)
    with pytest.raises(CommitError, match="did not finish"):
        commit(index)
    assert latest(index.engine, index.name) is None


def test_a_second_sync_is_told_who_holds_the_index(index: Index) -> None:
    told = rf"{index.name} is being written by .* pid \d+"
    with (
        leases.hold(index.engine, f"index {index.name}"),
        pytest.raises(UserError, match=told),
    ):
        run_sync(index)
    run_sync(index)
    with leases.hold(index.engine, f"live {index.name}"), pytest.raises(UserError, match=told):
        commit(index)
    commit(index)


def test_a_writer_that_lost_its_lease_stops_before_it_writes(
    index: Index, source: MemorySource
) -> None:
    """Its next batch would race the new holder's."""

    class Overtaken(MemorySource):
        def load(self, ref):  # type: ignore[no-untyped-def]
            with write(index.engine) as connection:
                connection.exec_driver_sql("UPDATE leases SET token = token + 1")
            return super().load(ref)

    overtaken = replace(index, source=Overtaken(source.texts))
    with pytest.raises(SyncError, match="another writer took over"):
        run_sync(overtaken)
    assert stored_in(index) == {}


def test_a_document_that_fails_after_a_crash_does_not_block_the_others(
    index: Index, source: MemorySource
) -> None:
    """Its chunks in flight are settled with the store, and what is there stays served."""

    def crash() -> None:
        raise Crash

    run_sync(index)
    commit(index)
    source.texts["d0.md"] = document("Doc0", "new")
    for method, after in (("write", False), ("write", True), ("delete", True)):
        tripping = TrippingStore(index.store, crash, method, after=after)
        with pytest.raises(Crash):
            run_sync(replace(index, store=tripping))  # type: ignore[arg-type]
        good, source.texts["d0.md"] = source.texts["d0.md"], None
        report = run_sync(index)
        commit(index)
        assert report.failed == 1
        assert failures(index) == {"d0.md": "cannot be read"}
        counts = index.ledger(report.collection).counts()
        assert (counts.in_flight, counts.failed) == (0, 1)
        assert any(s.chunk.document_id == "d0.md" for s in stored_in(index).values())
        assert states(index)["ids_match"] is State.TRUE
        assert states(index)["counts_match"] is State.TRUE
        source.texts["d0.md"] = good
    run_sync(index)
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_a_move_undone_after_a_crash_leaves_no_wrong_position(
    index: Index, source: MemorySource
) -> None:
    def crash() -> None:
        raise Crash

    source.texts["d0.md"] = section("one") + section("two")
    run_sync(index)
    before, source.texts["d0.md"] = source.texts["d0.md"], section("two") + section("one")
    with pytest.raises(Crash):
        run_sync(replace(index, store=TrippingStore(index.store, crash, "move", after=True)))  # type: ignore[arg-type]
    source.texts["d0.md"] = before
    run_sync(index)
    assert_exact(index, source)


def test_a_chunk_that_vanished_before_it_was_moved_is_written_again(
    index: Index, source: MemorySource
) -> None:
    """As many strangers' objects as missing ones: the count shows nothing."""
    source.texts["d0.md"] = section("one") + section("two")
    run_sync(index)
    objects = raw(index.store).collections.use(collection_of(index)).data
    (victim,) = (
        id_
        for id_, s in stored_in(index).items()
        if s.chunk.text.startswith("## one") and s.chunk.document_id == "d0.md"
    )
    objects.delete_by_id(victim)
    objects.insert({"text": "stranger"}, vector=[1.0] + [0.0] * 7)
    source.texts["d0.md"] = section("two") + section("one")

    with pytest.raises(SyncError):
        run_sync(index)
    run_sync(index)

    assert_exact(index, source)


def test_a_snapshot_names_what_was_committed(index: Index, source: MemorySource) -> None:
    run_sync(index)
    first = commit(index)
    source.texts["d9.md"] = document("Doc9", "nine")
    run_sync(index)
    second = commit(index)
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.source_digest != second.source_digest
    assert first.manifest_digest != second.manifest_digest
    assert live.latest(index.engine, index.name) == second


def test_a_document_deleted_after_it_was_listed_is_no_failure(
    index: Index, source: MemorySource
) -> None:
    """Where files come and go it happens every day, and nobody is to be woken for it."""
    run_sync(index)
    commit(index)
    edited = min(source.texts)

    class Vanishing(MemorySource):
        def load(self, ref: Ref) -> Document:
            raise GoneError("was deleted after it was listed")

    listed = {**source.texts, edited: document("Edited", "now"), "new.md": document("New", "one")}
    run_sync(replace(index, source=Vanishing(listed)))
    commit(index)
    assert not failures(index)
    assert states(index)["documents_indexed"] is State.TRUE

    del source.texts[edited]
    run_sync(index)
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)
