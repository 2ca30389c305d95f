"""Every way an index stops being true, done to a healthy one for real: what is seen, when, by whom.

Each fault names the signals that turn false at the next tick and, beyond those, at the next audit:
these and no others. Then the run that they ask for is made, after whatever a person has to do
first, and the index must be exact and every signal true.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, null, select, update
from weaviate.classes.config import DataType, Property, Reconfigure
from weaviate.classes.data import DataObject

from agent_pipelines.health import alerts
from agent_pipelines.health.evaluate import evaluate, tick
from agent_pipelines.health.readers import not_true
from agent_pipelines.health.signal import State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.store import CollectionSettings
from agent_pipelines.indexing.sync import SyncError
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import (
    chunks,
    documents,
    generations,
    snapshots,
    source_changes,
)
from agent_pipelines.state.tables import signals as readings
from resources.weaviate import WeaviateStore
from tests import traces
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

#: Of each fault, by `python -m tests.recordings`.
TRACES = Path(__file__).parents[1] / "unit" / "traces"

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

    def edit(self, statement: Any) -> None:
        """Change the state database by hand."""
        with write(self.index.engine) as connection:
            connection.execute(statement)

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


def forge_readings(system: System) -> None:
    """Objects are gone, and every reading on record is made to say that all is well."""
    delete_objects(system)
    system.looked(catalogue())
    values = {"state": "true", "evaluated_at": datetime.now(UTC), "evidence": []}
    system.edit(update(readings).values(values))
    index = system.index
    deceived = not_true(index.engine, index.name, audit_every=index.audit_every)
    assert deceived == [], "readers are deceived"


def lose_in_both(system: System) -> None:
    """A chunk goes from the store, and its row from the ledger: the two agree."""
    (each,) = system.some()
    system.objects.data.delete_by_id(each.uuid)
    system.edit(delete(chunks).where(chunks.c.chunk_id == str(each.uuid)))


def edit_chunk_row(system: System) -> None:
    (each,) = system.some()
    of_it = chunks.c.chunk_id == str(each.uuid)
    system.edit(update(chunks).where(of_it).values(content_hash="0" * 64))


def delete_document_row(system: System) -> None:
    """The source has what the ledger does not know: a change that waits to be synced."""
    system.index = replace(system.index, max_staleness_seconds=0.0)
    system.edit(delete(documents).where(documents.c.document_id == "d1.md"))


def delete_snapshot_row(system: System) -> None:
    system.edited()
    newest = select(func.max(snapshots.c.sequence)).scalar_subquery()
    system.edit(delete(snapshots).where(snapshots.c.sequence == newest))


def retire_generation_row(system: System) -> None:
    system.edit(update(generations).values(state="retired"))


def lose_golden_vector(system: System) -> None:
    system.edit(update(generations).values(golden_vector=null()))


def date_change_ahead(system: System) -> None:
    """A clock that was a year ahead when the change was first seen, and is right again."""
    nobody_syncs(system)
    ahead = datetime.now(UTC) + timedelta(days=365)
    system.edit(update(source_changes).values(since=ahead))


def return_alias(system: System) -> None:
    """To the generation that was live before this one."""
    before = collection_of(system.index)
    other_chunking(system)
    system.synced()
    system.index.store.point_alias(system.index.alias, before)


def narrow_searches(system: System) -> None:
    narrow = Reconfigure.Vectors.update(vector_index_config=Reconfigure.VectorIndex.hnsw(ef=1))
    system.objects.config.update(vector_config=narrow)


def rank_otherwise(system: System) -> None:
    words = Reconfigure.inverted_index(bm25_k1=2, stopwords_additions=["one"])
    system.objects.config.update(inverted_index_config=words)


def rank_without_length(system: System) -> None:
    """Weaviate leaves the zero out of the schema then, and its client cannot read that."""
    words = Reconfigure.inverted_index(bm25_b=0.0)
    system.objects.config.update(inverted_index_config=words)


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

#: A vector that is none may lead a search astray, whatever it looks for.
MISLED = SAMPLED | signals("search_serves_snapshot")

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
    *(
        Fault(
            f"the {name} of an object overwritten",
            lambda s, name=name, value=value: s.put(s.some()[0], **{name: value}),
            audit=signals("ids_match"),
            chance=SAMPLED,
        )
        for name, value in {"metadata": ["a=b"], "bucket": 4_096}.items()
    ),
    Fault(
        "the vectors of two objects exchanged",
        exchange_vectors,
        audit=signals("vectors_match_text"),
        chance=SAMPLED,
    ),
    *(
        Fault(f"a vector {what}", spoil, audit=signals("vectors_valid"), chance=MISLED)
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
        "the alias on the generation before",
        return_alias,
        tick=signals("alias_points_to_live", "search_serves_snapshot"),
        audit=signals("known_items_found"),
    ),
    Fault(
        "the collection dropped",
        drop_collection,
        tick=signals("alias_points_to_live"),
        unsure=signals(
            *("counts_match", "ids_match", "known_items_found", "replicas_agree"),
            *("schema_matches", "search_serves_snapshot", "store_writable", "vectors_findable"),
            *("vectors_match_text", "vectors_valid"),
        ),
    ),
    Fault("a property added to the schema", add_property, tick=signals("schema_matches")),
    Fault("searches made narrow (ef 1)", narrow_searches, tick=signals("schema_matches")),
    Fault("words ranked otherwise", rank_otherwise, tick=signals("schema_matches")),
    Fault("words ranked without length", rank_without_length, tick=signals("schema_matches")),
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
        "a chunk lost in store and state database alike",
        lose_in_both,
        audit=signals("documents_complete"),
    ),
    Fault(
        "a chunk's row in the ledger edited",
        edit_chunk_row,
        audit=signals("documents_complete", "ids_match"),
    ),
    Fault("a document's row deleted from the ledger", delete_document_row, tick=signals("fresh")),
    Fault("the newest snapshot deleted", delete_snapshot_row, tick=signals("snapshot_in_store")),
    Fault(
        "the live generation recorded as retired",
        retire_generation_row,
        unsure=signals(
            *("counts_match", "deleted_items_gone", "documents_complete", "documents_indexed"),
            *("golden_vector_matches", "ids_match", "replicas_agree", "schema_matches"),
            *("spec_is_current", "vectors_findable", "vectors_match_text", "vectors_valid"),
        ),
    ),
    Fault(
        "every reading forged as true",
        forge_readings,
        tick=signals("counts_match"),
        audit=signals("ids_match"),
        chance=SAMPLED,
    ),
    Fault(
        "a change dated a year ahead",
        date_change_ahead,
        tick=signals("fresh"),
    ),
    Fault(
        "the golden vector lost",
        lose_golden_vector,
        unsure=signals("golden_vector_matches"),
        person=lambda system: system.edited(),
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
        tick=signals("fresh", "listing_trusted"),
        person=find_mount,
    ),
    Fault(
        "a listing that breaks off",
        truncate_listing,
        unsure=signals("fresh", "listing_trusted"),
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


def repair(system: System, found: dict[str, State]) -> None:
    """Make the runs that these states ask for."""
    for _ in range(_RUNS):
        asked = {s.repair for s in catalogue() if found[s.name] is not State.TRUE}
        if not asked:
            return
        system.synced(verify="verify" in asked)
        found = system.looked(catalogue())


def trace_of(fault: Fault) -> str:
    """What its recorded trace is called."""
    return re.sub(r"[^a-z0-9]+", "-", fault.name.lower()).strip("-")


@pytest.mark.parametrize("fault", FAULTS, ids=trace_of)
def test_its_alerts_fire_on_what_an_exporter_said_of_it(fault: Fault) -> None:
    """What the file says that it raises is what promtool must find in it: `test_health_alerts`."""
    told = traces.parse((TRACES / f"{trace_of(fault)}.trace").read_text())
    fired = {(alerts.name_of(s), "docs") for s in catalogue() if s.name in fault.tick | fault.audit}
    chance = {(alerts.name_of(s), "docs") for s in catalogue() if s.name in fault.chance}
    assert told.fires - chance == (fired or {("CannotTell", "docs")}), "record it anew"


@pytest.mark.parametrize("fault", FAULTS, ids=trace_of)
def test_the_fault_is_seen_by_its_signals_alone_and_repaired(
    fault: Fault, system: System, record_property: Callable[[str, object], None]
) -> None:
    fault.inject(system)

    began = monotonic()
    ticked = system.looked(tick())
    tick_seconds = monotonic() - began
    audited = system.looked(catalogue())
    audit_seconds = monotonic() - began - tick_seconds

    assert in_state(ticked, State.FALSE) - fault.chance == fault.tick
    assert in_state(audited, State.FALSE) - fault.chance == fault.tick | fault.audit
    assert in_state(audited, State.CANNOT_TELL) == fault.unsure

    fault.person(system)
    began = monotonic()
    repair(system, audited)
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
