"""What a stranger's hand does to Weaviate is seen by a signal and made right by a sync."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.health.signal import State
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.store import CollectionSettings, StoreError
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateResource, WeaviateStore
from tests.engine import (
    MemorySource,
    assert_exact,
    assert_healthy,
    collection_of,
    document,
    named_index,
    raw,
    run_sync,
    states,
    stored_in,
)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"d{n}.md": document(f"Doc{n}", "one", "two") for n in range(3)})


@pytest.fixture
def index(store: WeaviateStore, source: MemorySource, tmp_path: Path) -> Iterator[Index]:
    """A committed, healthy index."""
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with named_index(store, engine, source) as made:
        run_sync(made)
        commit(made)
        yield made


def false_signals(index: Index) -> set[str]:
    return {name for name, state in states(index).items() if state is State.FALSE}


def objects_of(index: Index) -> Any:
    return raw(index.store).collections.use(collection_of(index)).data


def some_chunk(index: Index) -> str:
    return min(stored_in(index))


def delete(index: Index) -> None:
    objects_of(index).delete_by_id(some_chunk(index))


def add(index: Index) -> None:
    objects_of(index).insert({"text": "nobody's", "title": "x"}, vector=[1.0] + [0.0] * 7)


@pytest.mark.parametrize("tamper", [delete, add])
def test_a_different_number_of_objects_is_seen_by_count_and_by_id_and_repaired(
    index: Index, source: MemorySource, tamper: Callable[[Index], None]
) -> None:
    tamper(index)
    assert false_signals(index) >= {"counts_match", "ids_match"}
    assert run_sync(index).repaired == 1, "counts differ, so nobody has to ask for a comparison"
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_a_swap_that_keeps_the_count_is_seen_by_id_and_repaired_by_verify(
    index: Index, source: MemorySource
) -> None:
    delete(index)
    add(index)
    assert "ids_match" in false_signals(index)
    assert "counts_match" not in false_signals(index)
    assert run_sync(index).repaired == 0
    assert run_sync(index, verify=True).repaired == 2
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


@pytest.mark.parametrize(
    "altered",
    [
        {"text": "something else"},
        {"title": "something else"},
        {"uri": "https://example.org/elsewhere"},
        {"document_id": "another.md"},
        {"content_hash": "0" * 64},
        {"position": 99},
        {"spec": "0" * 64},
    ],
    ids=lambda altered: next(iter(altered)),
)
def test_every_altered_property_is_seen_and_repaired(
    index: Index, source: MemorySource, altered: dict[str, Any]
) -> None:
    """A reader is shown all of them; a citation with another document's id is a lie too."""
    objects_of(index).update(uuid=some_chunk(index), properties=altered)
    assert "ids_match" in false_signals(index)
    assert run_sync(index, verify=True).repaired == 1
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


@pytest.mark.parametrize(
    "vector",
    [[0.0] * 8, [float("nan")] * 8, [3.0] + [0.0] * 7],
    ids=["zero", "not-a-number", "not-normalized"],
)
def test_a_bad_vector_is_seen_and_written_again_by_verify(
    index: Index, source: MemorySource, vector: list[float]
) -> None:
    """The runbook of vectors_valid promises that `sync --verify` mends it."""
    from weaviate.classes.data import DataObject

    id_ = some_chunk(index)
    whole = raw(index.store).collections.use(collection_of(index)).query.fetch_object_by_id(id_)
    # gRPC, as a client that writes a NaN would: JSON has none.
    answer = objects_of(index).insert_many(
        [DataObject(properties=whole.properties, uuid=id_, vector=vector)]
    )
    if answer.has_errors:
        pytest.fail(f"this Weaviate refuses the vector, so nothing is left to see: {answer.errors}")
    assert "vectors_valid" in false_signals(index)

    assert run_sync(index, verify=True).repaired == 1
    commit(index)

    assert_exact(index, source)
    assert_healthy(index)


def test_a_missing_vector_is_seen_and_written_again(index: Index, source: MemorySource) -> None:
    id_ = some_chunk(index)
    whole = raw(index.store).collections.use(collection_of(index)).query.fetch_object_by_id(id_)
    objects_of(index).delete_by_id(id_)
    objects_of(index).insert(properties=whole.properties, uuid=id_)
    assert "vectors_valid" in false_signals(index)
    run_sync(index, verify=True)
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_a_moved_alias_is_seen_and_pointed_back_by_the_next_commit(
    index: Index, store: WeaviateStore
) -> None:
    other = f"{index.alias}__other"
    store.create_collection(other, "a stranger's", CollectionSettings())
    store.point_alias(index.alias, other)
    assert "alias_points_to_live" in false_signals(index)
    commit(index)
    assert_healthy(index)


def test_a_deleted_alias_is_seen_and_made_again(index: Index) -> None:
    raw(index.store).alias.delete(alias_name=index.alias)
    assert "alias_points_to_live" in false_signals(index)
    commit(index)
    assert_healthy(index)


def test_a_dropped_collection_is_seen_and_built_again(index: Index, source: MemorySource) -> None:
    """The ledger of the dropped one must not make the sync believe that nothing is missing."""
    index.store.drop_collection(collection_of(index))
    assert "alias_points_to_live" in false_signals(index)
    run_sync(index)
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_the_store_tells_a_refusal_from_silence(
    index: Index, store: WeaviateStore, weaviate_url: dict[str, str]
) -> None:
    """A refusal fails the run; silence says nothing about what the store holds."""
    with pytest.raises(StoreError):
        store.count(f"{index.alias}__nowhere")
    with pytest.raises(StoreError):
        store.point_alias(index.alias, f"{index.alias}__nowhere")
    with pytest.raises(UnavailableError, match="does not answer"):
        WeaviateStore("http://127.0.0.1:9", "127.0.0.1:10", None)
    for grpc in ("127.0.0.1", "127.0.0.1:9", "127.0.0.1:grpc"):
        with pytest.raises(UserError, match="WEAVIATE_GRPC"):
            WeaviateResource(url="http://127.0.0.1:9", grpc=grpc).connect()
    gone = WeaviateStore(weaviate_url["url"], weaviate_url["grpc"], weaviate_url["api_key"])
    gone.close()
    blind = replace(index, store=gone)
    assert State.FALSE not in states(blind).values()
    assert states(blind)["counts_match"] is State.CANNOT_TELL
