"""Every way an index stops being true, done to a healthy one for real: what is seen, when, by whom.

Each fault names the signals that turn false at the next tick and, beyond those, at the next audit:
these and no others. Then the run that they ask for is made, after whatever a person has to do
first, and the index must be exact and every signal true.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from weaviate.classes.config import Configure, DataType, Property
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
    stored_in,
    tombstones_of,
)

#: So many runs may be needed: one that mends, and one that a new spec asks for after that.
_RUNS = 3


@dataclass
class System:
    """A healthy index and everything around it that can break."""

    index: Index
    source: MemorySource
    folder: Path

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
    one, other = system.some(2)
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
    system.index.engine.dispose()
    for leftover in ("-wal", "-shm"):
        system.database.with_name(f"{system.database.name}{leftover}").unlink(missing_ok=True)
    shutil.copyfile(kept, system.database)


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
    """The source lists nothing, and thinks that to be all."""
    system.kept = dict(system.source.texts)  # type: ignore[attr-defined]
    system.source.texts.clear()
    with pytest.raises(SyncError, match="Nothing was deleted"):
        run_sync(system.index)


def truncate_listing(system: System) -> None:
    system.source.incomplete = "the connection was closed"
    with pytest.raises(SyncError, match="incomplete"):
        run_sync(system.index)


FAULTS = [
    Fault(
        "objects deleted from Weaviate",
        delete_objects,
        tick=signals("counts_match"),
        audit=signals("ids_match"),
    ),
    Fault(
        "objects added to Weaviate",
        add_objects,
        tick=signals("counts_match"),
        audit=signals("ids_match"),
    ),
    Fault("one object in place of another", swap_one_for_another, audit=signals("ids_match")),
    Fault("text of an object overwritten", overwrite_text, audit=signals("ids_match")),
    Fault("vectors of two objects exchanged", exchange_vectors, audit=signals("vectors_match_text")),
    Fault(
        "a vector of zeros",
        lambda s: s.put(s.some()[0], vector=[0.0] * 8),
        audit=signals("vectors_valid"),
    ),
    Fault(
        "a vector of NaN",
        lambda s: s.put(s.some()[0], vector=[float("nan")] * 8),
        audit=signals("vectors_valid"),
    ),
    Fault("a vector missing", remove_vector, audit=signals("vectors_valid")),
    Fault(
        "deleted chunks are back",
        resurrect,
        tick=signals("counts_match"),
        audit=signals("ids_match", "deleted_items_gone", "deleted_items_not_served"),
    ),
    Fault("the alias deleted", delete_alias, tick=signals("alias_points_to_live")),
    Fault("the alias on another collection", move_alias, tick=signals("alias_points_to_live")),
    Fault("the collection dropped", drop_collection, tick=signals("alias_points_to_live")),
    Fault("a property added", add_property, tick=signals("schema_matches")),
    Fault(
        "an older state database restored",
        restore_database,
        tick=signals("snapshot_in_store"),
        audit=signals("ids_match"),
    ),
    Fault(
        "an older Weaviate restored",
        restore_store,
        tick=signals("snapshot_in_store"),
        audit=signals("ids_match"),
    ),
    Fault(
        "other weights behind the same name",
        drift,
        audit=signals("golden_vector_matches"),
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
    assert in_state(audited, State.FALSE) == fault.tick | fault.audit
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
        "fault",
        {
            "fault": fault.name,
            "tick": sorted(fault.tick),
            "audit": sorted(fault.audit),
            "seconds": tick_seconds if fault.tick else audit_seconds,
            "repair": repair_seconds,
        },
    )
