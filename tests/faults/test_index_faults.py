"""Every way an index stops being true, done to a healthy one for real: what is seen, when, by whom.

Each fault names the signals that turn false at the next tick and, beyond those, at the next audit:
these and no others. Then the run that they ask for is made, after whatever a person has to do
first, and the index must be exact and every signal true.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from weaviate.classes.config import DataType, Property
from weaviate.classes.data import DataObject

from agent_pipelines.health.evaluate import evaluate, tick
from agent_pipelines.health.signal import State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.store import CollectionSettings
from agent_pipelines.indexing.sync import SyncError
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateStore
from tests.engine import (
    HashEmbedder,
    MemorySource,
    assert_exact,
    assert_healthy,
    collection_of,
    document,
    named_index,
    raw,
    run_sync,
    tombstones_of,
)

#: The property of a test's report that becomes a row of the table at the end (`conftest.py`).
FAULT = "fault"

#: So many runs may be needed: one that mends, and one that a new spec asks for after that.
_RUNS = 3


@dataclass
class System:
    """A healthy index and everything around it that can break."""

    index: Index
    source: MemorySource
    folder: Path
    kept: dict[str, str | None] = field(default_factory=dict)
    """What the source held before it was lost."""

    @property
    def objects(self) -> Any:
        return raw(self.index.store).collections.use(collection_of(self.index))

    @property
    def database(self) -> Path:
        return self.folder / "state.db"

    def some(self, count: int = 1) -> list[Any]:
        """The first objects, with their vectors."""
        found = self.objects.iterator(include_vector=True)
        return sorted(found, key=lambda each: str(each.uuid))[:count]

    def put(self, each: Any, *, vector: Any = None, **properties: Any) -> None:
        """Write an object as a client of its own would, over gRPC: JSON has no NaN."""
        answer = self.objects.data.insert_many(
            [
                DataObject(
                    properties={**each.properties, **properties},
                    uuid=each.uuid,
                    vector=each.vector["default"] if vector is None else vector,
                )
            ]
        )
        assert not answer.has_errors, answer.errors

    def edited(self) -> None:
        """The source changes, and readers get the change."""
        self.source.texts["d1.md"] = document("Doc1", "one", "another")
        self.synced()

    def synced(self, *, verify: bool = False) -> None:
        run_sync(self.index, verify=verify)
        commit(self.index)

    def looked(self, signals: Any) -> dict[str, State]:
        with View(self.index, committed=True) as view:
            return {signal.name: r.state for signal, r in evaluate(view, signals).items()}


@dataclass(frozen=True)
class Fault:
    """One way to break it, and who sees that."""

    name: str
    inject: Callable[[System], object]
    tick: frozenset[str] = frozenset()
    """Signals that are false at the next tick."""
    audit: frozenset[str] = frozenset()
    """Signals that are false at the next audit, beyond those."""
    chance: frozenset[str] = frozenset()
    """Signals of a sample: false where that has what is wrong."""
    unsure: frozenset[str] = frozenset()
    """Signals that cannot be told then."""
    person: Callable[[System], object] = lambda system: None
    """What the runbook asks a person to do before the run."""


def signals(*names: str) -> frozenset[str]:
    return frozenset(names)


def delete_objects(system: System) -> None:
    for each in system.some(2):
        system.objects.data.delete_by_id(each.uuid)


def add_objects(system: System) -> None:
    for each in system.some(2):
        system.objects.data.insert(each.properties, vector=each.vector["default"])


def swap_one_for_another(system: System) -> None:
    (each,) = system.some()
    system.objects.data.delete_by_id(each.uuid)
    system.objects.data.insert(each.properties, vector=each.vector["default"])


def overwrite_text(system: System) -> None:
    (each,) = system.some()
    system.put(each, text="What nobody ever wrote.")


def exchange_vectors(system: System) -> None:
    one, *others = system.some(8)
    other = next(each for each in others if each.properties["text"] != one.properties["text"])
    system.put(one, vector=other.vector["default"])
    system.put(other, vector=one.vector["default"])


def remove_vector(system: System) -> None:
    (each,) = system.some()
    system.objects.data.delete_by_id(each.uuid)
    system.objects.data.insert(each.properties, uuid=each.uuid)


def resurrect(system: System) -> None:
    """As Weaviate did after a restart: what a committed sync deleted is there again."""
    before = {str(each.uuid): each for each in system.objects.iterator(include_vector=True)}
    system.edited()
    gone = next(id_ for id_ in tombstones_of(system.index) if id_ in before)
    system.put(before[gone])


def delete_alias(system: System) -> None:
    raw(system.index.store).alias.delete(alias_name=system.index.alias)


def move_alias(system: System) -> None:
    other = f"{system.index.alias}__other"
    system.index.store.create_collection(other, "a stranger's", CollectionSettings())
    system.index.store.point_alias(system.index.alias, other)


def drop_collection(system: System) -> None:
    system.index.store.drop_collection(collection_of(system.index))


def add_property(system: System) -> None:
    system.objects.config.add_property(Property(name="surplus", data_type=DataType.TEXT))


def restore_database(system: System) -> None:
    """An older backup of the state database takes the place of the newest."""
    kept = system.folder / "backup.db"
    with sqlite3.connect(system.database) as newest, sqlite3.connect(kept) as backup:
        newest.backup(backup)
    system.edited()
    with sqlite3.connect(kept) as backup, sqlite3.connect(system.database) as newest:
        backup.backup(newest)


def restore_store(system: System) -> None:
    """An older backup of Weaviate takes the place of the newest: objects and notes as they were."""
    before = list(system.objects.iterator(include_vector=True))
    notes = raw(system.index.store).collections.use("AgentPipelines")
    kept = list(notes.iterator())
    system.edited()
    for each in list(system.objects.iterator()):
        system.objects.data.delete_by_id(each.uuid)
    for each in before:
        system.put(each)
    for note in kept:
        notes.data.update(uuid=note.uuid, properties=note.properties)


class Drifted(HashEmbedder):
    """Other weights behind the same name."""

    def vector(self, text: str) -> Vectors:
        made: Vectors = np.roll(super().vector(text), 1)
        return made


def drift(system: System) -> None:
    system.index = replace(system.index, embedder=Drifted())


def undrift(system: System) -> None:
    system.index = replace(system.index, embedder=HashEmbedder())


def other_chunking(system: System) -> None:
    system.index = replace(system.index, chunker=ChunkerSpec(96, 0))


def unreadable(system: System) -> None:
    system.source.texts["d1.md"] = None
    system.synced()


def readable(system: System) -> None:
    system.source.texts["d1.md"] = document("Doc1", "one", "two")


def nobody_syncs(system: System) -> None:
    """A change is in the source, and the bound on staleness passes."""
    system.index = replace(system.index, max_staleness_seconds=0.0)
    system.source.texts["d1.md"] = document("Doc1", "one", "another")
    system.looked(tick())


def lose_mount(system: System) -> None:
    """The source lists nothing, thinks that to be all, and nobody looks until it is too late."""
    system.kept = dict(system.source.texts)
    system.source.texts.clear()
    with pytest.raises(SyncError, match="Nothing was deleted"):
        run_sync(system.index)
    system.index = replace(system.index, max_staleness_seconds=0.0)
    system.looked(tick())


def find_mount(system: System) -> None:
    system.source.texts.update(system.kept)


def truncate_listing(system: System) -> None:
    system.source.incomplete = "the connection was closed"
    with pytest.raises(SyncError, match="incomplete"):
        run_sync(system.index)


def complete_listing(system: System) -> None:
    system.source.incomplete = None


def set_shards(system: System, status: str) -> None:
    """As Weaviate does by itself when its disk is nearly full."""
    config = system.objects.config
    config.update_shards(status=status, shard_names=[s.name for s in config.get_shards()])


SAMPLED = signals("known_items_found")

FAULTS = [
    Fault(
        "objects deleted from Weaviate",
        delete_objects,
        tick=signals("counts_match"),
        audit=signals("ids_match"),
        chance=SAMPLED,
    ),
    Fault(
        "objects added to Weaviate",
        add_objects,
        tick=signals("counts_match"),
        audit=signals("ids_match"),
    ),
    Fault(
        "one object in place of another",
        swap_one_for_another,
        audit=signals("ids_match"),
        chance=SAMPLED,
    ),
    Fault(
        "the text of an object overwritten",
        overwrite_text,
        audit=signals("ids_match"),
        chance=SAMPLED,
    ),
    Fault(
        "the vectors of two objects exchanged",
        exchange_vectors,
        audit=signals("vectors_match_text"),
        chance=SAMPLED,
    ),
    *(
        Fault(f"a vector {what}", spoil, audit=signals("vectors_valid"), chance=SAMPLED)
        for what, spoil in (
            ("of zeros", lambda s: s.put(s.some()[0], vector=[0.0] * 8)),
            ("of NaN", lambda s: s.put(s.some()[0], vector=[float("nan")] * 8)),
            ("missing", remove_vector),
        )
    ),
    Fault(
        "deleted chunks are back",
        resurrect,
        tick=signals("counts_match"),
        audit=signals("ids_match", "deleted_items_gone", "deleted_items_not_served"),
    ),
    Fault(
        "the alias deleted",
        delete_alias,
        tick=signals("alias_points_to_live"),
        unsure=signals("known_items_found", "search_serves_snapshot"),
    ),
    Fault(
        "the alias on another collection",
        move_alias,
        tick=signals("alias_points_to_live", "search_serves_snapshot"),
        audit=signals("known_items_found"),
    ),
    Fault(
        "the collection dropped",
        drop_collection,
        tick=signals("alias_points_to_live"),
        unsure=signals(
            *("counts_match", "ids_match", "known_items_found", "schema_matches"),
            *("search_serves_snapshot", "store_writable", "vectors_findable"),
            *("vectors_match_text", "vectors_valid"),
        ),
    ),
    Fault("a property added to the schema", add_property, tick=signals("schema_matches")),
    Fault(
        "a shard of Weaviate read-only",
        lambda s: set_shards(s, "READONLY"),
        tick=signals("store_writable"),
        person=lambda s: set_shards(s, "READY"),
    ),
    Fault(
        "an older state database restored",
        restore_database,
        tick=signals("snapshot_in_store"),
        audit=signals("ids_match"),
        chance=SAMPLED,
    ),
    Fault(
        "an older Weaviate restored",
        restore_store,
        tick=signals("snapshot_in_store"),
        audit=signals("ids_match", "deleted_items_gone", "deleted_items_not_served"),
        chance=SAMPLED,
    ),
    Fault(
        "other weights behind the same name",
        drift,
        audit=signals("golden_vector_matches", "known_items_found"),
        unsure=signals("vectors_match_text"),
        person=undrift,
    ),
    Fault("chunking changed in defs.yaml", other_chunking, tick=signals("spec_is_current")),
    Fault(
        "a document that cannot be read",
        unreadable,
        tick=signals("documents_indexed"),
        person=readable,
    ),
    Fault("syncs stop while the source changes", nobody_syncs, tick=signals("fresh")),
    Fault(
        "the source lists nothing: its mount is gone",
        lose_mount,
        tick=signals("fresh"),
        person=find_mount,
    ),
    Fault(
        "a listing that breaks off",
        truncate_listing,
        unsure=signals("fresh"),
        person=complete_listing,
    ),
]


@pytest.fixture
def system(store: WeaviateStore, tmp_path: Path) -> Iterator[System]:
    source = MemorySource({f"d{n}.md": document(f"Doc{n}", "one", "two") for n in range(4)})
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with named_index(store, engine, source) as index:
        made = System(index, source, tmp_path)
        made.synced()
        assert_healthy(index)
        yield made


def in_state(states: dict[str, State], state: State) -> set[str]:
    return {name for name, found in states.items() if found is state}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_the_fault_is_seen_by_its_signals_alone_and_repaired(
    fault: Fault, system: System, record_property: Callable[[str, object], None]
) -> None:
    fault.inject(system)

    began = monotonic()
    ticked = system.looked(tick())
    tick_seconds = monotonic() - began
    audited = system.looked(catalogue())
    audit_seconds = monotonic() - began - tick_seconds

    assert in_state(ticked, State.FALSE) == fault.tick
    assert in_state(audited, State.FALSE) - fault.chance == fault.tick | fault.audit
    assert in_state(audited, State.CANNOT_TELL) == fault.unsure

    fault.person(system)
    began = monotonic()
    for _ in range(_RUNS):
        asked = {s.repair for s in catalogue() if audited[s.name] is not State.TRUE}
        if not asked:
            break
        system.synced(verify="verify" in asked)
        audited = system.looked(catalogue())
    repair_seconds = monotonic() - began
    assert_exact(system.index, system.source)
    assert_healthy(system.index)
    record_property(
        FAULT,
        (
            fault.name,
            ", ".join(sorted(fault.tick)) or "-",
            ", ".join(sorted(fault.audit)) or "-",
            f"{tick_seconds:.2f}" if fault.tick else f"{audit_seconds:.2f}",
            f"{repair_seconds:.1f}",
        ),
    )
