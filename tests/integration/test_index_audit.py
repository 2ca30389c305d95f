"""What nobody sees by counting: each is seen by its signal and no other, and mended by a sync."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, update

from agent_pipelines.health.evaluate import look
from agent_pipelines.health.signal import State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing import live, rotation
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.indexing.live import commit, is_pending, rollback
from agent_pipelines.indexing.sequence import Told, tell, told
from agent_pipelines.indexing.store import CollectionSettings, Stored, StoreError
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import chunks
from resources import weaviate_notes
from resources.weaviate import WeaviateResource, WeaviateStore, _schema, _vector_index
from resources.weaviate_objects import properties_of
from tests.engine import (
    Crash,
    HashEmbedder,
    MemorySource,
    TrippingStore,
    assert_exact,
    assert_healthy,
    collection_of,
    document,
    named_index,
    raw,
    run_sync,
    section,
    states,
    stored_in,
)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"d{n}.md": document(f"Doc{n}", f"one{n}", "two") for n in range(3)})


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_engine(f"sqlite:///{tmp_path / 'state.db'}")


@pytest.fixture
def index(store: WeaviateStore, source: MemorySource, engine: Engine) -> Iterator[Index]:
    """A committed, healthy index."""
    with named_index(store, engine, source) as made:
        run_sync(made)
        commit(made)
        yield made


def false_signals(index: Index) -> set[str]:
    return {name for name, state in states(index).items() if state is State.FALSE}


def not_true(index: Index) -> set[str]:
    return {name for name, state in states(index).items() if state is not State.TRUE}


def mend(index: Index, source: MemorySource, *, verify: bool = False) -> int:
    """The repair, after which everything is as it should be."""
    repaired = run_sync(index, verify=verify).repaired
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)
    return repaired


def objects_of(index: Index) -> Any:
    return raw(index.store).collections.use(collection_of(index)).data


def overwrite_vector(index: Index, id_: str, vector: Any) -> None:
    objects_of(index).update(uuid=id_, properties={}, vector=np.asarray(vector).tolist())


# Vectors against texts


def swap_two(index: Index) -> set[str]:
    one, *others = sorted(stored_in(index).values(), key=lambda s: s.chunk.id)
    # Some sections are alike, and so are their vectors.
    other = next(each for each in others if each.chunk.text != one.chunk.text)
    overwrite_vector(index, one.chunk.id, other.vector)
    overwrite_vector(index, other.chunk.id, one.vector)
    return {one.chunk.id, other.chunk.id}


def give_one_another_texts(index: Index) -> set[str]:
    id_ = min(stored_in(index))
    overwrite_vector(index, id_, HashEmbedder().vector("a text of nobody's"))
    return {id_}


@pytest.mark.parametrize("tamper", [swap_two, give_one_another_texts])
def test_a_vector_that_is_not_of_its_text_is_seen_and_embedded_again_by_the_next_sync(
    index: Index, source: MemorySource, tamper: Callable[[Index], set[str]]
) -> None:
    """Each of them is sound by itself, so that nothing else can tell."""
    wrong = tamper(index)
    assert false_signals(index) - {"known_items_found"} == {"vectors_match_text"}
    assert set(rotation.suspected(index.engine, collection_of(index))["wrong vector"]) == wrong
    assert mend(index, source) == len(wrong)


def test_a_wrong_vector_is_not_copied_from_another_chunk_of_the_same_text(
    index: Index, source: MemorySource
) -> None:
    source.texts = {f"d{n}.md": section("same") for n in range(3)}
    run_sync(index)
    commit(index)
    for id_ in stored_in(index):
        overwrite_vector(index, id_, HashEmbedder().vector("a text of nobody's"))
    assert "vectors_match_text" in false_signals(index)
    assert mend(index, source) == 3


def test_an_index_of_another_embedder_is_not_compared_with_this_one(index: Index) -> None:
    other = replace(index, embedder=HashEmbedder("another"))
    assert states(other)["vectors_match_text"] is State.CANNOT_TELL


# Objects that no search finds: the real loss is in tests/faults/test_crash_matrix.py


class Losing:
    """A store whose vector index does not have these chunks, until they are written again."""

    def __init__(self, store: Any, lost: set[str]) -> None:
        self._store, self._lost = store, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def delete(self, collection: str, chunk_ids: Any) -> None:
        self._store.delete(collection, chunk_ids)
        self._lost -= set(chunk_ids)

    def unfindable(self, collection: str, stored: list[Stored], *, among: int = 20) -> list[str]:
        found = self._store.unfindable(collection, stored, among=among)
        return [*found, *(s.chunk.id for s in stored if s.chunk.id in self._lost)]


def test_what_no_search_finds_is_deleted_and_written_again(
    index: Index, source: MemorySource
) -> None:
    """Writing the same over it would change nothing: the store has it."""
    lost = set(sorted(stored_in(index))[:2])
    losing = replace(index, store=Losing(index.store, lost))
    assert false_signals(losing) == {"vectors_findable"}
    assert mend(losing, source) == 2
    assert lost == set()


def test_what_a_wider_search_finds_is_not_lost(index: Index) -> None:
    """The vector index is approximate: a miss among the first hits is no fault."""

    class Approximate(Losing):
        def unfindable(self, collection: str, stored: Any, *, among: int = 20) -> list[str]:
            return [s.chunk.id for s in stored] if among == 20 else []

    assert_healthy(replace(index, store=Approximate(index.store, set())))


# What was deleted


def test_a_deleted_chunk_that_comes_back_is_seen_and_deleted_again(
    index: Index, source: MemorySource, store: WeaviateStore
) -> None:
    """As after a restart of Weaviate (its issue 9157); with as many others lost, counts match."""
    before = stored_in(index)
    del source.texts["d0.md"]
    run_sync(index)
    commit(index)
    assert_healthy(index)
    back = next(s for s in before.values() if s.chunk.document_id == "d0.md")
    assert back.vector is not None
    store.write(collection_of(index), [back.chunk], back.vector[None, :], back.fingerprint)
    assert false_signals(index) == {
        *("deleted_items_gone", "deleted_items_not_served"),
        *("counts_match", "ids_match"),
    }
    assert mend(index, source, verify=True) == 1


def test_a_text_that_was_taken_back_is_not_a_deleted_one(
    index: Index, source: MemorySource
) -> None:
    """Its chunks have the ids again that were retired."""
    before = source.texts.pop("d0.md")
    run_sync(index)
    commit(index)
    source.texts["d0.md"] = before
    assert mend(index, source) == 0


# Places


def test_two_chunks_in_the_same_place_of_a_document_are_seen_and_mended(
    index: Index, source: MemorySource
) -> None:
    """Ledger and store agree, and both are wrong: as by a fault of ours."""
    first, second = sorted(
        (s.chunk for s in stored_in(index).values() if s.chunk.document_id == "d0.md"),
        key=lambda chunk: chunk.position,
    )[:2]
    with write(index.engine) as connection:
        connection.execute(
            update(chunks).where(chunks.c.chunk_id == second.id).values(position=first.position)
        )
    objects_of(index).update(uuid=second.id, properties={"position": first.position})
    # Whose id comes first decides whether they still seem to be in the order that was cut.
    assert false_signals(index) - {"documents_complete"} == {"ids_match"}
    assert mend(index, source, verify=True) == 2


# The schema


def add_a_property(index: Index) -> None:
    from weaviate.classes.config import DataType, Property

    config = raw(index.store).collections.use(collection_of(index)).config
    config.add_property(Property(name="stray", data_type=DataType.TEXT))


def made_anew(index: Index, properties: list[Any], settings: CollectionSettings) -> None:
    """The same collection with the same objects, by somebody who did it by hand."""
    from weaviate.classes.config import Configure
    from weaviate.classes.data import DataObject

    name, held = collection_of(index), stored_in(index).values()
    collections = raw(index.store).collections
    collections.delete(name)
    collections.create(
        name,
        vector_config=Configure.Vectors.self_provided(vector_index_config=_vector_index(settings)),
        properties=properties,
    )
    names = {each.name for each in properties}
    answer = collections.use(name).data.insert_many(
        [
            DataObject(
                uuid=s.chunk.id,
                properties={
                    k: v for k, v in properties_of(s.chunk, s.fingerprint).items() if k in names
                },
                vector=s.vector.tolist() if s.vector is not None else None,
            )
            for s in held
        ]
    )
    assert not answer.has_errors


def tokenise_otherwise(index: Index) -> None:
    from weaviate.classes.config import Tokenization

    properties = list(_schema())
    for each in properties:
        if each.name == "text":
            each.tokenization = Tokenization.FIELD
    made_anew(index, properties, CollectionSettings())


def index_vectors_otherwise(index: Index) -> None:
    made_anew(index, list(_schema()), CollectionSettings(vector_index="flat"))


@pytest.mark.parametrize("alter", [add_a_property, tokenise_otherwise, index_vectors_otherwise])
def test_an_altered_schema_is_seen_and_another_generation_takes_its_place(
    index: Index, source: MemorySource, alter: Callable[[Index], None]
) -> None:
    before = collection_of(index)
    alter(index)
    assert not_true(index) == {"schema_matches"}
    mend(index, source)
    assert collection_of(index) != before
    assert index.store.alias_target(index.alias) == collection_of(index)


def test_a_dropped_property_is_seen_with_what_it_held(index: Index, source: MemorySource) -> None:
    made_anew(index, [p for p in _schema() if p.name != "uri"], CollectionSettings())
    assert "schema_matches" in false_signals(index)
    mend(index, source)


@pytest.mark.parametrize(
    "settings",
    [
        CollectionSettings(vector_index=kind, quantisation=by)  # type: ignore[arg-type]
        for kind, quantisers in (
            ("hnsw", ("none", "rq", "pq", "sq", "bq")),
            ("flat", ("none", "rq", "bq")),
        )
        for by in quantisers
    ],
    ids=lambda s: f"{s.vector_index}-{s.quantisation}",
)
def test_a_collection_is_what_it_was_created_as(
    store: WeaviateStore, engine: Engine, settings: CollectionSettings
) -> None:
    """Else every sync would build another one."""
    with named_index(store, engine, MemorySource(), settings=settings) as index:
        store.create_collection(f"{index.alias}__x", "", settings)
        assert store.deviations(f"{index.alias}__x", settings) == []


def test_settings_that_were_changed_since_are_no_deviation(index: Index) -> None:
    """They take effect with the next generation."""
    assert_healthy(replace(index, settings=CollectionSettings(vector_index="flat")))


# The sequence


def test_a_state_database_from_a_backup_is_seen_and_brought_in_step(
    index: Index, source: MemorySource, tmp_path: Path
) -> None:
    """The edit since keeps the number of objects: nothing that counts can tell."""
    backup = tmp_path / "backup.db"
    copy(tmp_path / "state.db", backup)
    source.texts["d0.md"] = document("Doc0", "edited", "two")
    run_sync(index)
    later = commit(index)
    copy(backup, tmp_path / "state.db")

    found = false_signals(index)
    assert "snapshot_in_store" in found
    assert found <= {"snapshot_in_store", "ids_match", "known_items_found"}
    mend(index, source, verify=True)
    restored = live.latest(index.engine, index.name)
    assert restored is not None
    assert restored.sequence > later.sequence, "a number that readers had is not given again"


def copy(one: Path, other: Path) -> None:
    with closing(sqlite3.connect(one)) as here, closing(sqlite3.connect(other)) as there:
        here.backup(there)


def test_a_store_from_a_backup_is_seen_and_brought_in_step(
    index: Index, source: MemorySource, store: WeaviateStore
) -> None:
    """Its objects are of before an edit that kept their number, and so is its sequence."""
    before = stored_in(index)
    source.texts["d0.md"] = document("Doc0", "edited", "two")
    run_sync(index)
    later = commit(index)
    store.delete(collection_of(index), list(stored_in(index)))
    for stored in before.values():
        assert stored.vector is not None
        vector = stored.vector[None, :]
        store.write(collection_of(index), [stored.chunk], vector, stored.fingerprint)
    tell(index, Told(later.sequence - 1, settled=True))

    found = false_signals(index)
    assert {"snapshot_in_store", "ids_match", "deleted_items_gone"} <= found
    assert "counts_match" not in found
    assert mend(index, source) > 0, "nobody has to ask for the comparison"
    assert told(index) == Told(later.sequence, settled=True)


def test_a_lost_state_database_is_seen(index: Index, tmp_path: Path, source: MemorySource) -> None:
    lost = replace(index, engine=open_engine(f"sqlite:///{tmp_path / 'new.db'}"))
    assert false_signals(lost) == {"snapshot_in_store"}
    run_sync(lost)
    assert commit(lost).sequence == 2
    assert_exact(lost, source)
    assert_healthy(lost)


def test_a_store_that_was_told_nothing_is_told_by_the_next_commit(
    index: Index, source: MemorySource
) -> None:
    """As of an index that was committed before stores were told; it is no false alarm."""
    raw(index.store).collections.delete(weaviate_notes.COLLECTION)
    assert states(index)["snapshot_in_store"] is State.CANNOT_TELL
    assert false_signals(index) == set()
    assert is_pending(index)
    mend(index, source)
    assert not is_pending(index)


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_commit_that_was_killed_is_no_false_alarm_and_ended_by_the_next(
    index: Index, source: MemorySource, call: int, after: bool
) -> None:
    source.texts["d0.md"] = document("Doc0", "edited", "two")
    run_sync(index)

    def die() -> None:
        raise Crash

    dying = TrippingStore(index.store, die, "write_note", call, after)
    with suppress(Crash):
        commit(replace(index, store=dying))  # type: ignore[arg-type]
    assert false_signals(index) == set()
    settled = call == 2 and after
    unsure = {"snapshot_in_store"} if (call, after) not in ((1, False), (2, True)) else set()
    assert not_true(index) == unsure
    assert is_pending(index) != settled
    assert commit(index).sequence == 2
    assert_exact(index, source)
    assert_healthy(index)


def test_who_looks_in_the_midst_of_a_commit_cannot_tell(index: Index) -> None:
    """The alias is swapped, and no snapshot says so yet."""
    changed = replace(index, chunker=replace(index.chunker, tokens=64))
    run_sync(changed)
    seen: list[set[str]] = []

    def look_meanwhile() -> None:
        seen.extend((false_signals(changed), not_true(changed)))

    watched = TrippingStore(index.store, look_meanwhile, "point_alias", 1, after=True)
    commit(replace(changed, store=watched))  # type: ignore[arg-type]
    false, doubtful = seen
    assert false == set()
    assert "alias_points_to_live" in doubtful
    assert_healthy(changed)


def test_a_rollback_is_a_commit_that_the_store_is_told_of(
    index: Index, source: MemorySource
) -> None:
    changed = replace(index, chunker=replace(index.chunker, tokens=64))
    run_sync(changed)
    commit(changed)
    assert rollback(changed).sequence == 3
    assert told(index) == Told(3, settled=True)
    assert_healthy(index)


# The canary


def read_only(index: Index, collection: str, status: str) -> None:
    raw(index.store).collections.use(collection).config.update_shards(status)


@pytest.mark.parametrize("which", ["canary", "index"])
def test_a_store_that_takes_no_writes_is_seen_while_it_answers(index: Index, which: str) -> None:
    """As Weaviate turns when its disk is full."""
    collection = weaviate_notes.COLLECTION if which == "canary" else collection_of(index)
    read_only(index, collection, "READONLY")
    try:
        assert not_true(index) == {"store_writable"}
    finally:
        read_only(index, collection, "READY")
    assert_healthy(index)


def test_a_write_that_is_taken_and_lost_is_seen(index: Index) -> None:
    class Forgetting(Losing):
        def write_note(self, *_: Any) -> None:
            pass

    assert not_true(replace(index, store=Forgetting(index.store, set()))) == {"store_writable"}


def test_two_who_write_the_canary_at_once_both_see_it_written(index: Index) -> None:
    other = WeaviateStore.write_note

    class Beside(Losing):
        def write_note(self, key: str, value: str, settings: CollectionSettings) -> None:
            other(self._store, key, value, settings)
            other(self._store, key, "another's", settings)

    assert_healthy(replace(index, store=Beside(index.store, set())))


def test_a_note_is_refused_with_a_reason_and_read_as_nothing_where_there_is_none(
    index: Index, store: WeaviateStore
) -> None:
    assert store.note(f"no such key of {index.alias}") is None
    store.write_note("k", "one", CollectionSettings())
    store.write_note("k", "two", CollectionSettings())
    assert store.note("k") == "two"
    raw(store).collections.delete(weaviate_notes.COLLECTION)
    assert store.note("k") is None
    with suppress(StoreError):  # it has seen the collection, and finds out that it is gone
        store.write_note("k", "three", CollectionSettings())
    store.write_note("k", "four", CollectionSettings())
    assert store.note("k") == "four"


# The rotation


def test_every_chunk_has_its_turn_however_the_index_changes(
    index: Index, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "AT_LEAST", 4)
    seen: set[str] = set()
    counted = len(stored_in(index))
    for round_ in range(counted // 4 + 1):
        turn = rotation.turn(index.engine, collection_of(index), ledger(index), counted)
        assert len(turn.ids) == 4
        seen |= set(turn.ids)
        again = rotation.turn(index.engine, collection_of(index), ledger(index), counted)
        assert again.ids == turn.ids, "until it was looked at for everything"
        turn.found("wrong vector", {})
        turn.found("not found", {})
        if round_ == 0:
            assert_healthy(index)
    assert seen == set(stored_in(index))


def test_after_a_finding_audits_look_at_as_many_as_they_can(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "AT_LEAST", 1)
    monkeypatch.setattr(rotation, "AT_MOST", 3)
    collection, counted = collection_of(index), len(stored_in(index))

    def turn() -> rotation.Turn:
        return rotation.turn(index.engine, collection, ledger(index), counted)

    first = turn()
    (wrong,) = first.ids
    first.found("not found", {})
    first.found("wrong vector", {wrong: "cosine 0.5"})
    second = turn()
    assert wrong in second.ids
    assert len(second.ids) == 3
    assert rotation.suspected(index.engine, collection)["wrong vector"] == [wrong]
    rotation.doubted(index.engine, collection, [wrong])
    assert rotation.suspected(index.engine, collection)["wrong vector"] == []
    assert wrong in turn().ids, "to see whether that helped"
    for _ in range(counted):
        this = turn()
        this.found("not found", {})
        this.found("wrong vector", {})
    assert len(turn().ids) == 1, "all were looked at, and nothing was found"


def ledger(index: Index) -> Ledger:
    return index.ledger(collection_of(index))


def test_healthy_edits_turn_nothing_false(index: Index, source: MemorySource) -> None:
    """Every signal, between any two steps of a life without faults."""
    lives: list[dict[str, str | None]] = [
        {"d0.md": document("Doc0", "two", "one0")},
        {"d1.md": document("Doc1", "one1", "two", "three")},
        {"new.md": section("one0")},
        {"d0.md": section("two")},
    ]
    for edit in lives:
        source.texts |= edit
        assert false_signals(index) == set()
        run_sync(index)
        assert false_signals(index) == set()
        commit(index)
        assert states(index) == {signal.name: State.TRUE for signal in catalogue()}


def test_who_looks_while_syncs_and_commits_go_on_sees_nothing_false(
    index: Index, source: MemorySource, weaviate_resource: WeaviateResource
) -> None:
    """Every signal, all the time, whatever goes on."""
    stop, false, seen = threading.Event(), set[str](), Counter[State]()

    def watch() -> None:
        with weaviate_resource.connect() as store:
            beside = replace(index, store=store)
            while not stop.is_set():
                with View(beside, committed=True) as view:
                    for signal, reading in look(view, catalogue()).items():
                        seen[reading.state] += 1
                        if reading.state is State.FALSE:
                            false.add(f"{signal.name}: {reading.observed}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for n in range(12):
            source.texts[f"d{n % 3}.md"] = document(f"Doc{n % 3}", f"new{n}", "two")
            source.texts[f"more{n}.md"] = section(f"more{n}")
            source.texts.pop(f"more{n - 1}.md", None)
            run_sync(index, verify=n % 4 == 3)
            commit(index)
    finally:
        stop.set()
        watcher.join()
    assert false == set()
    assert seen[State.TRUE] > 50, "it could tell, now and then"
    assert_exact(index, source)
    assert_healthy(index)
