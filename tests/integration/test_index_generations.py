"""What readers get: through syncs, rebuilds and rollbacks, the whole index at every moment."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from agent_pipelines.errors import UserError
from agent_pipelines.health.signal import State
from agent_pipelines.indexing import generations
from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import CommitError, commit, latest, rollback
from resources.weaviate import WeaviateResource, WeaviateStore
from tests.engine import (
    HashEmbedder,
    MemorySource,
    assert_exact,
    assert_healthy,
    collection_of,
    document,
    raw,
    run_sync,
    section,
    states,
    stored_in,
)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"d{n}.md": document(f"Doc{n}", "one", "two") for n in range(6)})


def other_spec(index: Index) -> Index:
    """What the index is once its defs.yaml says another size of chunks."""
    return replace(index, chunker=ChunkerSpec(96, 0))


def committed(index: Index) -> Index:
    run_sync(index)
    commit(index)
    return index


def test_rolling_back_returns_to_the_generation_before_and_stays_there(
    index: Index, source: MemorySource
) -> None:
    old = committed(index)
    new = committed(other_spec(index))
    left = collection_of(new)

    snapshot = rollback(new)

    assert index.store.alias_target(index.alias) == collection_of(old) == snapshot.collection
    assert snapshot.sequence == 3
    assert states(new)["spec_is_current"] is State.FALSE, "it is said that this is not defs.yaml"
    for refused in (lambda: run_sync(new), lambda: commit(new)):
        with pytest.raises(UserError, match="was rolled back") as error:
            refused()
        assert "set defs.yaml back" in error.value.remedy
    source.texts["d0.md"] = document("Doc0", "edited")
    committed(old)
    assert_exact(old, source)
    assert_healthy(old)
    assert left in index.store.collections(), "kept: one may return to it"


def test_rolling_back_once_more_returns_to_what_defs_yaml_says(
    index: Index, source: MemorySource
) -> None:
    committed(index)
    new = committed(other_spec(index))
    rollback(new)
    rollback(new)
    committed(new)
    assert_exact(new, source)
    assert_healthy(new)


def test_a_changed_spec_after_a_rollback_is_built_and_goes_live(
    index: Index, source: MemorySource
) -> None:
    committed(index)
    new = committed(other_spec(index))
    rollback(new)
    third = committed(replace(index, chunker=ChunkerSpec(64, 0)))
    assert_exact(third, source)
    assert_healthy(third)
    kept = generations.kept(index.engine, index.name)
    assert kept is not None
    assert kept.collection == collection_of(index), "readers had it until now"


def test_without_a_generation_before_there_is_nothing_to_return_to(index: Index) -> None:
    for prepare in (lambda: None, lambda: committed(index)):
        prepare()
        with pytest.raises(UserError, match="no generation to return to"):
            rollback(index)


def test_a_damaged_generation_is_not_returned_to(index: Index, store: WeaviateStore) -> None:
    committed(index)
    new = committed(other_spec(index))
    kept = generations.kept(index.engine, index.name)
    assert kept is not None
    victim = next(iter(stored_in(index, kept.collection)))
    raw(store).collections.use(kept.collection).data.delete_by_id(victim)
    with pytest.raises(CommitError, match="does not hold the"):
        rollback(new)
    assert index.store.alias_target(index.alias) == collection_of(new)
    assert_healthy(new)


@dataclass
class Readers:
    """Threads that read every document through the alias, again and again."""

    violations: list[str] = field(default_factory=list)
    looks: int = 0

    def read(self, store: WeaviateStore, alias: str, must: Callable[[], set[str]]) -> None:
        wanted = must()
        found = store.search(alias, "words", HashEmbedder().vector("any"), limit=200, alpha=1)
        self.looks += 1
        # Deleted since we asked: allowed to be gone, and nothing else is.
        wanted &= must()
        if lost := wanted - {chunk.document_id for chunk, _ in found}:
            self.violations.append(f"look {self.looks}: {sorted(lost)} not found")


@contextmanager
def hammering(
    weaviate: WeaviateResource, alias: str, must: Callable[[], set[str]]
) -> Iterator[Readers]:
    readers, stop = Readers(), threading.Event()

    def work() -> None:
        with weaviate.connect() as store:
            while not stop.is_set():
                try:
                    readers.read(store, alias, must)
                except Exception as error:  # any error a reader gets is a violation
                    readers.violations.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield readers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_readers_never_miss_a_document_whatever_goes_on(
    index: Index, source: MemorySource, weaviate_resource: WeaviateResource, rounds: int
) -> None:
    """Edits, deletions, rebuilds and rollbacks under readers that look all the time."""
    committed(index)
    always = set(source.texts)
    with hammering(weaviate_resource, index.alias, lambda: set(always)) as readers:
        now = index
        for round_ in range(rounds):
            for n in range(3):
                source.texts[f"d{n}.md"] = document(f"Doc{n}", f"r{round_}", "two", "three")
            source.texts["passing.md"] = section(f"passing{round_}")
            committed(now)
            del source.texts["passing.md"]
            committed(now)
            now = replace(index, chunker=ChunkerSpec(96 + round_ % 2 * 16, 0))
            committed(now)
            rollback(now)
            rollback(now)
    assert readers.violations == []
    assert readers.looks > 10 * rounds


def test_what_a_committed_snapshot_deleted_is_not_read_any_more(
    index: Index, source: MemorySource, store: WeaviateStore
) -> None:
    committed(index)
    del source.texts["d3.md"]
    committed(index)
    vector = HashEmbedder().vector("any")
    found = store.search(index.alias, "Doc3", vector, limit=200)
    assert "d3.md" not in {chunk.document_id for chunk, _ in found}
    snapshot = latest(index.engine, index.name)
    assert snapshot is not None
    assert snapshot.documents == 5
