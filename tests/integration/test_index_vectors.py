"""What the model is not asked for: texts whose vector is there, wherever they stand now."""

import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from agent_pipelines.errors import UserError
from agent_pipelines.health.signal import State
from agent_pipelines.indexing import sync as sync_module
from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.search import IndexSearcher, read_filters
from agent_pipelines.indexing.sources import Document, Ref
from agent_pipelines.indexing.sync import SyncError
from agent_pipelines.state import leases
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import leases as table
from resources.weaviate import WeaviateStore
from tests.engine import (
    HashEmbedder,
    MemorySource,
    TrippingStore,
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
    return MemorySource({f"d{n}.md": document(f"Doc{n}", f"one{n}", "two") for n in range(4)})


def test_renamed_documents_take_their_vectors_along(index: Index, source: MemorySource) -> None:
    run_sync(index)
    source.texts = {f"moved/{id_}": text for id_, text in source.texts.items()}
    report = run_sync(index)
    assert (report.embedded, report.changed, report.deleted) == (0, 4, 4)
    assert report.reused > 0
    assert_exact(index, source)


def test_a_new_title_or_metadata_changes_what_is_shown_and_embeds_nothing(
    index: Index, store: WeaviateStore
) -> None:
    class Titled(MemorySource):
        team = "storage"

        def load(self, ref: Ref) -> Document:
            return replace(super().load(ref), title=self.team, metadata={"team": self.team})

    source = Titled({"a.md": section("one")})
    index = replace(index, source=source)
    run_sync(index)
    source.team = "network"
    source.texts["a.md"] = section("one") + "\n"
    report = run_sync(index)
    assert (report.embedded, report.written, report.retired) == (0, 1, 1)
    (stored,) = stored_in(index).values()
    assert (stored.chunk.title, stored.chunk.metadata) == ("network", {"team": "network"})


def test_documents_that_add_nothing_do_not_pile_up(
    index: Index, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Touched files, or a source of which nothing can be read: batches end all the same."""
    source.texts = {f"{n}.md": section("same") for n in range(30)}
    monkeypatch.setattr(sync_module, "BATCH_CHUNKS", 10)
    run_sync(index)
    source.texts |= {f"{n}.md": section("same") + "\n" for n in range(15)}
    source.texts |= {f"{n}.md": None for n in range(15, 30)}
    batches: list[int] = []
    apply = sync_module.Applier.apply

    def counted(self: Any, writes: Any, vectors: Any) -> None:
        batches.append(len(writes))
        apply(self, writes, vectors)

    monkeypatch.setattr(sync_module.Applier, "apply", counted)
    report = run_sync(index)
    assert (report.changed, report.written, report.failed) == (30, 0, 15)
    assert max(batches) <= 10
    assert sum(batches) == 15


def test_a_flawed_vector_is_never_copied(
    index: Index, source: MemorySource, store: WeaviateStore
) -> None:
    run_sync(index)
    objects = raw(store).collections.use(collection_of(index)).data
    for id_ in stored_in(index):
        objects.update(uuid=id_, properties={}, vector=[0.0] * 8)
    source.texts = {f"moved/{id_}": text for id_, text in source.texts.items()}
    assert run_sync(index).reused == 0
    assert_exact(index, source)


class Drifting(HashEmbedder):
    """The same name and weights, as far as anybody says, and other vectors."""

    def vector(self, text: str) -> Vectors:
        turned: Vectors = np.roll(super().vector(text), 1)
        return turned


def test_a_backend_that_drifted_adds_nothing_and_is_a_signal(
    index: Index, source: MemorySource
) -> None:
    run_sync(index)
    commit(index)
    before = stored_in(index)
    drifted = replace(index, embedder=Drifting())
    assert drifted.spec == index.spec
    assert states(drifted)["golden_vector_matches"] is State.FALSE
    source.texts["d0.md"] = document("Doc0", "new")
    with pytest.raises(SyncError, match="gives other vectors than those in"):
        run_sync(drifted)
    assert stored_in(index).keys() == before.keys()
    run_sync(index)
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_a_search_can_be_narrowed_by_what_is_known_of_documents(
    index: Index, store: WeaviateStore
) -> None:
    class Tagged(MemorySource):
        def load(self, ref: Ref) -> Document:
            tags = {"team": ref.id[0], "kind": "a=b" if ref.id[1] == "1" else "plain"}
            return replace(super().load(ref), metadata=tags)

    index = replace(index, source=Tagged({f"{t}{n}.md": section(t) for t in "xyz" for n in (1, 2)}))
    run_sync(index)
    commit(index)

    def found(*conditions: str) -> set[str]:
        searcher = IndexSearcher({index.name: index})
        hits = searcher.search(index.name, "x", limit=20, filters=read_filters(conditions)).hits
        return {hit.document_id for hit in hits}

    assert len(found()) == 6
    assert found("team=x") == {"x1.md", "x2.md"}
    assert found("team=x", "team=y", "kind=a=b") == {"x1.md", "y1.md"}
    assert found("document_id=z*") == {"z1.md", "z2.md"}
    assert found("uri=memory://y2.md") == {"y2.md"}
    assert found("team=w") == found("nothing=such") == set()
    for wrong in ("team", "=x", ""):
        with pytest.raises(UserError, match="is no condition"):
            found(wrong)


def test_what_a_fenced_off_writer_still_sends_is_removed_by_the_next_sync(
    index: Index, source: MemorySource, store: WeaviateStore
) -> None:
    """It hangs before its write, loses its lease to another sync, and then its write arrives."""
    run_sync(index)
    source.texts["late.md"] = section("late")
    reached, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        reached.set()
        assert go_on.wait(30)

    errors: list[Exception] = []

    def late_writer() -> None:
        hanging: Any = TrippingStore(store, hang, "write")
        try:
            run_sync(replace(index, store=hanging))
        except SyncError as error:
            errors.append(error)

    thread = threading.Thread(target=late_writer)
    thread.start()
    assert reached.wait(30)
    with write(index.engine) as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(
            update(table).where(table.c.name == f"index {index.name}").values(expires_at=past)
        )
    del source.texts["late.md"]
    run_sync(index)
    go_on.set()
    thread.join(30)

    (error,) = errors
    assert "another writer took over" in str(error)
    orphans = stored_in(index).keys() - set(index.ledger(collection_of(index)).present_ids())
    assert len(orphans) == 1, "the store took it: it knows no leases"
    assert run_sync(index).repaired == 1
    assert_exact(index, source)


def test_after_a_holder_that_never_gave_up_its_lease_numbers_are_not_trusted(
    index: Index, source: MemorySource, store: WeaviateStore
) -> None:
    """One object lost and one too many: the numbers match, and the index does not."""
    run_sync(index)
    with suppress(RuntimeError), leases.hold(index.engine, f"index {index.name}"):
        with write(index.engine) as connection:  # as of a process that is gone
            connection.execute(
                update(table)
                .where(table.c.name == f"index {index.name}")
                .values(token=table.c.token + 1, holder="h pid 1", expires_at=datetime.now(UTC))
            )
        raise RuntimeError
    lost, stray = list(stored_in(index).values())[:2]
    objects = raw(store).collections.use(collection_of(index)).data
    objects.delete_by_id(lost.chunk.id)
    assert stray.vector is not None
    store.write(
        collection_of(index),
        [replace(stray.chunk, id="00000000-0000-5000-8000-000000000001")],
        stray.vector[None, :],
        stray.fingerprint,
    )
    assert run_sync(index).repaired == 2
    assert_exact(index, source)
