"""Generations of an index: which collection is built, live, kept for rollback, retired.

Belongs here: their names and their rows. Does not belong here: filling one (`sync.py`) or making
one live (`live.py`).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, delete, insert, select, update

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.embedding import EmbedderIdentity
from agent_pipelines.indexing.partition import Partition
from agent_pipelines.indexing.spec import Spec
from agent_pipelines.indexing.store import CollectionSettings, StoreError, VectorStore
from agent_pipelines.state.engine import alone, read, write
from agent_pipelines.state.leases import Lease
from agent_pipelines.state.tables import (
    chunks,
    documents,
    generations,
    partitions,
    rotations,
    suspects,
)
from agent_pipelines.state.upsert import upsert

#: Collections are announced one after the other; the number is arbitrary, fixed.
_LOCK = 7_205_933

_INDEX_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

State = Literal["creating", "building", "live", "previous", "rejected", "retired"]


@dataclass(frozen=True)
class Generation:
    """One collection, built under one spec."""

    collection: str
    fingerprint: str
    embedder: EmbedderIdentity
    state: State
    golden_vector: Sequence[float] | None
    source_digest: str | None
    """The listing it is in step with; None while a sync is changing any partition of it."""
    listed_at: datetime | None
    """When that was listed; of its partitions the one that was listed first."""
    settings: CollectionSettings | None
    """Of its collection, as that was created; None where it was created before this was kept."""


def check_index_name(name: str) -> str:
    """The name, if it can name an index.

    Raises:
        UserError: it cannot. The store capitalises names and ours are built with `__`, so only
            names for which that stays reversible are allowed.
    """
    if not _INDEX_NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot name an index",
            remedy="rename the folder: lower-case letters and digits, joined by single underscores",
        )
    return name


def alias_of(index: str) -> str:
    """The Weaviate alias of an index; different for different indexes."""
    return check_index_name(index)[0].upper() + index[1:]


def live(engine: Engine, index: str) -> Generation | None:
    """The generation readers get, or None before the first commit."""
    return next((g for g in known(engine, index) if g.state == "live"), None)


def kept(engine: Engine, index: str) -> Generation | None:
    """The generation a rollback would return to, or None."""
    left = ("previous", "rejected")
    return next((g for g in known(engine, index) if g.state in left), None)


def under(engine: Engine, index: str, spec: Spec) -> Generation | None:
    """The newest generation that was built under this spec, or None."""
    fingerprint = spec.fingerprint
    usable = (g for g in known(engine, index) if g.state != "retired")
    return next((g for g in usable if g.fingerprint == fingerprint), None)


def is_rejected(engine: Engine, index: str, spec: Spec) -> bool:
    """Whether the generation under this spec was rolled back."""
    generation = under(engine, index, spec)
    return generation is not None and generation.state == "rejected"


def open_for(
    engine: Engine, store: VectorStore, index: str, spec: Spec, settings: CollectionSettings
) -> Generation:
    """The generation under this spec: the one there is, or a new, empty one.

    A collection that the store holds but the state database does not know (it was lost or rolled
    back) is left alone: readers may still be using it, and nobody can say what is in it. One whose
    schema is no longer what was created cannot be mended: another one takes its place.

    Raises:
        UserError: the generation under this spec was rolled back.
        StoreError: the store makes another schema than it is told to.
    """
    generation = under(engine, index, spec)
    # Asked after it: what is on record as built is there, unless somebody has dropped it.
    present = set(store.collections())
    if is_rejected(engine, index, spec):
        raise UserError(
            f"index {index} was rolled back from what its defs.yaml says (spec "
            f"{spec.fingerprint[:10]})",
            remedy="set defs.yaml back to what it was before, or change it; `agent-pipelines "
            f"rollback {index}` once more returns to this spec",
        )
    spoiled: set[str] = set()
    if generation and generation.state != "creating" and generation.collection in present:
        if not store.deviations(generation.collection, generation.settings):
            return generation
        spoiled.add(generation.collection)
    name = _announced(engine, index, spec, settings, present=present, spoiled=spoiled)
    if name not in present:
        try:
            store.create_collection(name, f"index {index}, spec {spec.fingerprint}", settings)
        except StoreError:
            # Another partition's sync, which began at the same moment, may have been quicker.
            if name not in store.collections():
                raise
        if wrong := store.deviations(name, settings):
            # Else every sync would find this and build yet another one.
            raise StoreError(
                f"the store made another schema of {name} than it was told to: {wrong}"
            )
    with write(engine) as connection:
        connection.execute(
            update(generations)
            .where(generations.c.collection == name, generations.c.state == "creating")
            .values(state="building")
        )
    return Generation(name, spec.fingerprint, spec.embedder, "building", None, None, None, settings)


def _announced(
    engine: Engine,
    index: str,
    spec: Spec,
    settings: CollectionSettings,
    *,
    present: set[str],
    spoiled: set[str],
) -> str:
    """The name of a collection to create, on record so that one left by a crash is somebody's.

    Two partitions that begin at the same moment are given the same one.
    """
    columns = generations.c
    with write(engine) as connection:
        alone(connection, _LOCK)
        rows = connection.execute(select(generations).where(columns.index_name == index)).all()
        for row in rows:
            usable = row.fingerprint == spec.fingerprint and row.state != "retired"
            if usable and (row.state == "creating" or row.collection in present - spoiled):
                return str(row.collection)
        taken = present | {row.collection for row in rows}
        name = _free_name(f"{alias_of(index)}__{spec.fingerprint[:10]}", taken=taken)
        connection.execute(
            insert(generations).values(
                collection=name,
                index_name=index,
                fingerprint=spec.fingerprint,
                spec=spec.as_dict(),
                state="creating",
                created_at=datetime.now(UTC),
                settings=settings.model_dump(mode="json"),
            )
        )
    return name


def remember_golden(engine: Engine, collection: str, vector: Sequence[float]) -> None:
    """Store the vector of the golden text, by whichever backend is the first to build this."""
    columns = generations.c
    with write(engine) as connection:
        connection.execute(
            update(generations)
            .where(columns.collection == collection, columns.golden_vector.is_(None))
            .values(golden_vector=list(vector))
        )


def mark_in_flux(lease: Lease, collection: str, partition: Partition) -> None:
    """Say that a sync is changing this partition: it is in step with no listing now."""
    _mark(lease, collection, partition, source_digest=None, listed_at=None)


def mark_in_step(
    lease: Lease,
    collection: str,
    partition: Partition,
    *,
    source_digest: str,
    listed_at: datetime,
) -> None:
    """Say that this partition holds what that listing listed."""
    _mark(lease, collection, partition, source_digest=source_digest, listed_at=listed_at)


def _mark(
    lease: Lease,
    collection: str,
    partition: Partition,
    *,
    source_digest: str | None,
    listed_at: datetime | None,
) -> None:
    row = {
        "collection": collection,
        "number": partition.number,
        "of": partition.of,
        "source_digest": source_digest,
        "listed_at": listed_at,
    }
    with write(lease.engine) as connection:
        lease.check(connection)
        # What another number of partitions was in step with says nothing about these.
        connection.execute(
            delete(partitions).where(
                partitions.c.collection == collection, partitions.c.of != partition.of
            )
        )
        upsert(connection, partitions, [row], overwrite=("of", "source_digest", "listed_at"))


def make_live(engine: Engine, store: VectorStore, index: str, collection: str) -> None:
    """Record which generation is live; keep the one before it for rollback, retire older ones."""
    before = live(engine, index)
    columns = generations.c
    with write(engine) as connection:
        this = columns.collection == collection
        was_live = (columns.index_name == index) & (columns.state == "live") & ~this
        connection.execute(update(generations).where(was_live).values(state="previous"))
        connection.execute(update(generations).where(this).values(state="live"))
    # The one readers had until now, which need not be the youngest: a spec may come back.
    left = [g.collection for g in known(engine, index) if g.state in ("previous", "rejected")]
    just_left = [before.collection] if before and before.collection in left else left[:1]
    for generation in known(engine, index):
        unused = generation.state in ("previous", "rejected", "building", "creating")
        if unused and generation.collection not in just_left:
            store.drop_collection(generation.collection)
            with write(engine) as connection:
                for table in (documents, chunks, partitions, rotations, suspects):
                    connection.execute(
                        delete(table).where(table.c.collection == generation.collection)
                    )
                _set(connection, generation.collection, state="retired")


def swap_back(
    connection: Connection, *, left: Generation, returned_to: Generation, rejected: bool
) -> None:
    """Record a rollback: which generation is live again, and whether the other is held off."""
    _set(connection, left.collection, state="rejected" if rejected else "previous")
    _set(connection, returned_to.collection, state="live")


def known(engine: Engine, index: str) -> list[Generation]:
    """Every generation of an index, retired ones too, the youngest first."""
    query = (
        select(generations)
        .where(generations.c.index_name == index)
        .order_by(generations.c.created_at.desc())
    )
    with read(engine) as connection:
        return [_generation(connection, row) for row in connection.execute(query)]


def _generation(connection: Connection, row: Any) -> Generation:
    source_digest, listed_at = in_step_with(connection, row.collection)
    return Generation(
        row.collection,
        row.fingerprint,
        EmbedderIdentity(**row.spec["embedder"]),
        row.state,
        row.golden_vector,
        source_digest,
        listed_at,
        CollectionSettings(**row.settings) if row.settings else None,
    )


def in_step_with(
    connection: Connection, collection: str
) -> tuple[str, datetime] | tuple[None, None]:
    """Digest and time of the listing a generation is in step with, once every partition is."""
    rows = connection.execute(
        select(partitions)
        .where(partitions.c.collection == collection)
        .order_by(partitions.c.number)
    ).all()
    if not rows or len(rows) < rows[0].of or any(row.source_digest is None for row in rows):
        return None, None
    if len(rows) == 1:
        return rows[0].source_digest, rows[0].listed_at
    digests = "".join(row.source_digest for row in rows)
    return hashlib.sha256(digests.encode()).hexdigest(), min(row.listed_at for row in rows)


def _set(connection: Connection, collection: str, **values: object) -> None:
    connection.execute(
        update(generations).where(generations.c.collection == collection).values(**values)
    )


def _free_name(wanted: str, *, taken: set[str]) -> str:
    name, attempt = wanted, 1
    while name in taken:
        attempt += 1
        name = f"{wanted}_{attempt}"
    return name
