"""An index in parts: each synced by itself, all of them one index to whoever reads."""

import threading
from dataclasses import replace

import pytest

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import CommitError, commit, is_pending
from agent_pipelines.indexing.partition import Partition
from agent_pipelines.indexing.sync import SyncError
from agent_pipelines.state import leases
from resources.weaviate import WeaviateResource, WeaviateStore
from tests.engine import (
    HashEmbedder,
    MemorySource,
    assert_exact,
    assert_healthy,
    collection_of,
    raw,
    run_sync,
    section,
    stored_in,
)

PARTS = [Partition(number, 3) for number in range(3)]


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"d{n}.md": section(f"doc{n}") for n in range(12)})


def sync_all(index: Index) -> None:
    for part in PARTS:
        run_sync(index, partition=part)


def test_each_part_is_synced_by_itself_and_all_of_them_are_the_index(
    index: Index, source: MemorySource
) -> None:
    for part in PARTS:
        with pytest.raises(CommitError, match="did not finish"):
            commit(index)
        report = run_sync(index, partition=part)
        mine = {id_ for id_ in source.texts if part.has(id_)}
        assert (report.listed, report.changed) == (len(mine), len(mine)) != (0, 0)
    assert is_pending(index)
    commit(index)
    assert not is_pending(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_a_change_costs_its_own_part_only(index: Index, source: MemorySource) -> None:
    sync_all(index)
    commit(index)
    source.texts["d0.md"] = section("edited")
    reports = [run_sync(index, partition=part) for part in PARTS]
    assert [report.changed for report in reports] == [int(part.has("d0.md")) for part in PARTS]
    commit(index)
    assert_exact(index, source)


def test_a_lost_object_is_missed_and_repaired_by_its_own_part(
    index: Index, source: MemorySource, store: WeaviateStore
) -> None:
    sync_all(index)
    commit(index)
    victim = next(s for s in stored_in(index).values() if PARTS[1].has(s.chunk.document_id))
    raw(store).collections.use(collection_of(index)).data.delete_by_id(victim.chunk.id)
    assert [run_sync(index, partition=part).repaired for part in PARTS] == [0, 1, 0]
    assert_exact(index, source)


def test_parts_run_side_by_side(
    index: Index, source: MemorySource, weaviate_resource: WeaviateResource
) -> None:
    source.texts |= {f"more{n}.md": section(f"more{n}") for n in range(60)}
    errors: list[BaseException] = []

    def work(part: Partition) -> None:
        try:
            with weaviate_resource.connect() as own:
                run_sync(replace(index, store=own, embedder=HashEmbedder()), partition=part)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[part]) for part in PARTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_one_part_does_not_hold_up_another_but_another_split_does(index: Index) -> None:
    with leases.hold(index.engine, f"index {index.name} 1/3"):
        run_sync(index, partition=PARTS[1])
        for other in (PARTS[0], Partition(0, 2), Partition(0, 1)):
            with pytest.raises(UserError, match=f"index {index.name} 1/3 is being written by"):
                run_sync(index, partition=other)


def test_another_number_of_parts_embeds_nothing_again(index: Index, source: MemorySource) -> None:
    sync_all(index)
    commit(index)
    assert isinstance(index.embedder, HashEmbedder)
    index.embedder.texts.clear()
    run_sync(index)
    commit(index)
    for number in range(5):
        run_sync(index, partition=Partition(number, 5))
    commit(index)
    assert index.embedder.texts == []
    assert_exact(index, source)
    assert_healthy(index)


def test_a_mass_deletion_is_seen_in_the_whole_index(index: Index, source: MemorySource) -> None:
    """Every part by itself would lose too few documents for anyone to ask."""
    source.texts = {f"d{n}.md": section(f"doc{n}") for n in range(60)}
    sync_all(index)
    source.texts = {"d0.md": section("doc0")}
    for part in PARTS:
        with pytest.raises(SyncError, match="59 of 60 indexed ones would be deleted"):
            run_sync(index, partition=part)
    for part in PARTS:
        run_sync(index, partition=part, accept_deletions=True)
    assert_exact(index, source)
