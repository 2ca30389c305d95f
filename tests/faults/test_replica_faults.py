"""A cluster of three Weaviates, of which one is away for a while: what its replica then lacks.

Nothing in it mends itself: whatever becomes equal again was written again by a sync.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from agent_pipelines.health.evaluate import evaluate
from agent_pipelines.health.signal import Reading, State
from agent_pipelines.health.signals import replicas_agree
from agent_pipelines.health.view import View
from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.store import CollectionSettings
from agent_pipelines.indexing.sync import SyncError
from agent_pipelines.state.engine import open_engine
from tests import weaviate_nodes
from tests.engine import (
    HashEmbedder,
    MemorySource,
    assert_exact,
    assert_healthy,
    collection_of,
    document,
    named_index,
    run_sync,
    stored_in,
)
from tests.weaviate_nodes import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with weaviate_nodes.running(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@contextmanager
def replicated(
    cluster: Cluster, folder: Path, *, factor: int = 3
) -> Iterator[tuple[Index, MemorySource]]:
    """A healthy index with that many replicas, seen through the first node."""
    source = MemorySource({f"d{n}.md": document(f"Doc{n}", "one", "two") for n in range(8)})
    settings = CollectionSettings(replication_factor=factor, consistency="quorum")
    with (
        cluster.nodes[0].resource().connect("quorum") as store,
        named_index(
            store, open_engine(f"sqlite:///{folder}/state.db"), source, settings=settings
        ) as index,
    ):
        synced(index)
        yield index, source


def synced(index: Index, *, verify: bool = False) -> None:
    run_sync(index, verify=verify)
    commit(index)


def agreement(index: Index) -> Reading:
    with View(index, committed=True) as view:
        return evaluate(view, [replicas_agree.SIGNAL])[replicas_agree.SIGNAL]


def faults(reading: Reading) -> set[tuple[str, str]]:
    return {(row["node"], row["fault"]) for row in reading.evidence}


def assert_every_replica_is_exact(index: Index, source: MemorySource) -> None:
    assert_exact(index, source)
    store = index.store
    replication = store.replication(collection_of(index))
    wanted = stored_in(index)
    for id_, copies in store.copies(replication, list(wanted)).items():
        assert len(copies) == replication.factor
        assert [c and c.chunk for c in copies.values()] == [wanted[id_].chunk] * len(copies)
    assert_healthy(index)


def test_a_node_that_was_away_is_named_and_brought_up_to_the_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    away = cluster.follower()
    with replicated(cluster, tmp_path) as (index, source):
        assert agreement(index).state is State.TRUE
        away.kill()
        try:
            source.texts["d1.md"] = document("Doc1", "one", "another")
            del source.texts["d2.md"]
            synced(index)
            unseen = agreement(index)
            assert unseen.state is State.CANNOT_TELL
            assert "replicas cannot be asked; only node0, " in unseen.observed
            assert away.name not in unseen.observed
        finally:
            away.start()
            cluster.wait()

        # What it was written, and what was deleted, while it was away.
        behind = agreement(index)
        assert behind.state is State.FALSE
        assert faults(behind) == {(away.name, "missing"), (away.name, "still there")}

        synced(index, verify=True)
        assert_every_replica_is_exact(index, source)


def test_with_fewer_replicas_than_nodes_each_is_read_where_it_is(
    cluster: Cluster, tmp_path: Path
) -> None:
    with replicated(cluster, tmp_path, factor=2) as (index, source):
        reading = agreement(index)
        assert (reading.state, reading.observed.split(" (")[0]) == (
            State.TRUE,
            "16 of 16 objects are the same on all of 2 replicas",
        )
        assert_every_replica_is_exact(index, source)


@pytest.mark.slow
def test_what_most_replicas_hold_is_not_right_for_that(cluster: Cluster, tmp_path: Path) -> None:
    """A stranger writes while a node is away: that one alone holds what the ledger says."""
    away = cluster.follower()
    present = {node.name for node in cluster.nodes if node is not away}
    with replicated(cluster, tmp_path) as (index, source):
        id_, held = next(iter(stored_in(index).items()))
        away.kill()
        try:
            altered = httpx2.patch(
                f"{cluster.nodes[0].url}/v1/objects/{collection_of(index)}/{id_}",
                json={"class": collection_of(index), "properties": {"text": "nobody's"}},
                timeout=30,
            )
            assert altered.is_success, altered.text
        finally:
            away.start()
            cluster.wait()
        found = agreement(index)
        assert found.state is State.FALSE
        assert {row["chunk"] for row in found.evidence} == {id_}
        assert faults(found) == {(name, "other content") for name in present}
        # A sync that compares nothing writes again what an audit found.
        synced(index)
        assert_every_replica_is_exact(index, source)
        assert stored_in(index)[id_].chunk == held.chunk


class Deadly(HashEmbedder):
    """Calls `kill` in the middle of a sync."""

    def __init__(self, kill: Callable[[], object]) -> None:
        super().__init__()
        self._kill = kill
        self.calls = 0

    def vector(self, text: str) -> Vectors:
        self.calls += 1
        if self.calls == 20:
            self._kill()
        return super().vector(text)


@pytest.mark.slow
def test_a_node_killed_during_a_sync_leaves_what_the_next_one_makes_exact(
    cluster: Cluster, tmp_path: Path
) -> None:
    away = cluster.follower()
    with replicated(cluster, tmp_path) as (index, source):
        for n in range(400):
            source.texts[f"e{n}.md"] = document(f"New{n}", "one", "two", "three")
        try:
            run_sync(replace(index, embedder=Deadly(away.kill)))
        except SyncError:
            pass  # or it comes through: two of three are a quorum
        finally:
            away.start()
            cluster.wait()
        synced(index, verify=True)
        assert_every_replica_is_exact(index, source)
