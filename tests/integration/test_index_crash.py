"""kill -9 at every boundary between two phases of a sync, in a real process, on a real Weaviate."""

import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateStore
from tests.dying import BOUNDARIES, Boundary, Death, Syncs, syncs
from tests.engine import (
    MemorySource,
    assert_exact,
    assert_healthy,
    document,
    named_index,
    run_sync,
    section,
    stored_in,
)

#: Documents before and after: edited, deleted, new, reordered, untouched.
BEFORE: dict[str, str | None] = {
    "edited.md": document("Edited", "one", "two", "three"),
    "deleted.md": document("Deleted", "one", "two"),
    "moved.md": section("one") + section("two") + section("three"),
    "same.md": document("Same", "one"),
}
AFTER: dict[str, str | None] = {
    "edited.md": document("Edited", "one", "zwei", "three", "four"),
    "moved.md": section("three") + section("one") + section("two"),
    "same.md": document("Same", "one"),
    "new.md": document("New", "one", "two"),
}


@pytest.fixture
def index(store: WeaviateStore, state_url: str) -> Iterator[Index]:
    with named_index(store, open_engine(state_url), MemorySource()) as made:
        yield made


@pytest.fixture(scope="module")
def dying(weaviate_url: Mapping[str, str]) -> Iterator[Syncs]:
    with syncs(weaviate_url) as made:
        yield made


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=str)
def test_the_sync_after_a_kill_is_exact_and_readers_never_see_a_gap(
    index: Index, dying: Syncs, boundary: Boundary
) -> None:
    """Nothing lost, nothing twice, and no document without any chunk in between."""
    source = MemorySource(BEFORE)
    index = replace(index, source=source)
    run_sync(index)
    commit(index)
    source.texts = dict(AFTER)

    died_of = dying.run(index, Death(boundary))

    assert died_of == signal.SIGKILL, "the process ended before it reached the boundary"
    served = {stored.chunk.document_id for stored in stored_in(index).values()}
    assert served >= BEFORE.keys() & AFTER.keys(), "a document was without any chunk"
    run_sync(index)  # at once: a lease of a dead process holds nobody up
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_a_first_sync_killed_before_the_ledger_knows_its_collection(
    index: Index, dying: Syncs
) -> None:
    """The collection was announced: the next sync takes it up, and no stray one is left."""
    source = MemorySource(BEFORE)
    index = replace(index, source=source)
    boundary = Boundary("store", "create_collection", 1, True)
    assert dying.run(index, Death(boundary)) == signal.SIGKILL
    (born,) = (c for c in index.store.collections() if c.startswith(f"{index.alias}__"))
    assert run_sync(index).collection == born
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)
