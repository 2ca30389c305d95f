"""What readers get: the alias's target and the committed snapshot.

Belongs here: committing, the one act by which a generation's state becomes what agents are told.
Does not belong here: deciding whether it is true (`health/`, whose blocking checks run before).
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, insert, select

from agent_pipelines.indexing import changes, generations
from agent_pipelines.indexing.index import Index
from agent_pipelines.state import leases
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import snapshots


class CommitError(Exception):
    """The generation is not in a state that may become live."""


@dataclass(frozen=True)
class Snapshot:
    """A committed sync."""

    index: str
    sequence: int
    collection: str
    source_digest: str
    manifest_digest: str
    documents: int
    failed_documents: int
    chunks: int
    listed_at: datetime
    committed_at: datetime


def latest(engine: Engine, index: str) -> Snapshot | None:
    """The newest committed snapshot, or None before the first."""
    query = (
        select(snapshots)
        .where(snapshots.c.index_name == index)
        .order_by(snapshots.c.sequence.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    values = row._asdict()
    return Snapshot(index=values.pop("index_name"), **values)


def commit(index: Index) -> Snapshot:
    """Make the generation under the index's spec live, and record the snapshot.

    A commit that would record what the newest snapshot already says returns that snapshot.

    Raises:
        CommitError: no sync has finished since the generation was last changed, or it could not
            index a single document.
        UserError: a sync of this index is running.
        UnavailableError: the store or the state database does not answer.
    """
    with leases.hold(index.engine, f"index {index.name}"):
        return _commit(index)


def _commit(index: Index) -> Snapshot:
    generation = generations.open_for(index.engine, index.store, index.name, index.spec)
    if generation.source_digest is None or generation.listed_at is None:
        raise CommitError(
            f"{index.name}: its last sync did not finish; run `agent-pipelines sync {index.name}`"
        )
    ledger = index.ledger(generation.collection)
    counts = ledger.counts()
    if counts.pending or counts.in_flight:
        raise CommitError(
            f"{index.name}: {counts.pending} documents and {counts.in_flight} chunks are in flight"
        )
    if counts.documents and not counts.chunks:
        raise CommitError(f"{index.name}: none of its {counts.documents} documents is indexed")
    if index.store.alias_target(index.alias) != generation.collection:
        index.store.point_alias(index.alias, generation.collection)
    before = latest(index.engine, index.name)
    snapshot = Snapshot(
        index=index.name,
        sequence=before.sequence + 1 if before else 1,
        collection=generation.collection,
        source_digest=generation.source_digest,
        manifest_digest=ledger.manifest_digest(),
        documents=counts.documents - counts.failed,
        failed_documents=counts.failed,
        chunks=counts.chunks,
        listed_at=generation.listed_at,
        committed_at=datetime.now(UTC),
    )
    changes.forget(index.engine, index.name, generation.collection)
    said_before = before is not None and _says(before) == _says(snapshot)
    if not said_before:
        with write(index.engine) as connection:
            values = asdict(snapshot)
            connection.execute(insert(snapshots).values(index_name=values.pop("index"), **values))
    # Also after a commit that was killed between the snapshot and this.
    if not said_before or generation.state != "live":
        generations.make_live(index.engine, index.store, index.name, generation.collection)
    return before if before and said_before else snapshot


def _says(snapshot: Snapshot) -> tuple[object, ...]:
    return (
        snapshot.collection,
        snapshot.source_digest,
        snapshot.manifest_digest,
        snapshot.failed_documents,
    )
