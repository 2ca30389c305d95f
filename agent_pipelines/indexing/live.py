"""What readers get: the alias's target and the committed snapshot.

Belongs here: committing, the one act by which a generation's state becomes what agents are told,
and going back to the generation before. Does not belong here: deciding whether a generation is true
(`health/`, whose blocking checks run before).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import Connection, Engine, insert, select

from agent_pipelines.errors import UserError
from agent_pipelines.indexing import changes, generations
from agent_pipelines.indexing.generations import Generation
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.sequence import Told, tell, told
from agent_pipelines.indexing.store import StoreError
from agent_pipelines.state import leases
from agent_pipelines.state.engine import read, write
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


def is_pending(index: Index) -> bool:
    """Whether the generation under the index's spec is in step and not what readers are told.

    Or the store was not told of it: as of a commit that was killed, or is older than the telling.
    """
    generation = generations.under(index.engine, index.name, index.spec)
    if generation is None or generation.source_digest is None:
        return False
    snapshot = latest(index.engine, index.name)
    counts = index.ledger(generation.collection).counts()
    return (
        snapshot is None
        or (generation.collection, generation.source_digest)
        != (
            snapshot.collection,
            snapshot.source_digest,
        )
        or (counts.chunks, counts.failed) != (snapshot.chunks, snapshot.failed_documents)
        or (known := told(index)) is None
        or not known.settled
    )


def went_back(index: Index) -> bool:
    """Whether the store or the state database was restored from a backup since the last commit.

    Where the store was told nothing, nobody knows. While a commit was killed, neither was.
    """
    snapshot, known = latest(index.engine, index.name), told(index)
    if known is None:
        return snapshot is not None
    return known.agrees_with(snapshot.sequence if snapshot else 0) is False


def is_committing(index: Index) -> bool:
    """Whether a commit or a rollback is under way: readers get what no snapshot says yet."""
    return leases.is_held(index.engine, _lease(index))


def commit(index: Index) -> Snapshot:
    """Make the generation under the index's spec live, and record the snapshot.

    A commit that would record what the newest snapshot already says returns that snapshot.

    Raises:
        CommitError: no sync has finished since the generation was last changed, or it could not
            index a single document.
        UserError: another commit of this index is running, or its spec was rolled back.
        UnavailableError: the store or the state database does not answer.
    """
    with leases.hold(index.engine, _lease(index)), _refusals(index):
        generation = generations.open_for(
            index.engine, index.store, index.name, index.spec, index.settings
        )
        snapshot = _make_live(index, generation)
        # Always: a commit may have been killed between the snapshot and this.
        generations.make_live(index.engine, index.store, index.name, generation.collection)
        return snapshot


def rollback(index: Index) -> Snapshot:
    """Return to the generation that was live before this one, as it was left.

    The alias swaps at once. Syncs of the spec that was rolled back from are refused until it
    changes, or until it is returned to by rolling back once more.

    Raises:
        CommitError: the generation kept is not what the ledger says.
        UserError: there is nothing to return to, or a commit of this index is running.
        UnavailableError: the store or the state database does not answer.
    """
    with leases.hold(index.engine, _lease(index)):
        kept = generations.kept(index.engine, index.name)
        left = generations.live(index.engine, index.name)
        if kept is None or left is None or kept.collection not in index.store.collections():
            raise UserError(
                f"index {index.name} has no generation to return to",
                remedy="one is kept when a changed defs.yaml builds a new one; to undo an edit of "
                "the source, edit the source",
            )
        # Who returns to what defs.yaml says has nothing to hold off.
        rejected = kept.fingerprint != index.spec.fingerprint
        swap = partial(generations.swap_back, left=left, returned_to=kept, rejected=rejected)
        with _refusals(index):
            return _make_live(index, kept, and_record=swap)


def _lease(index: Index) -> str:
    return f"live {index.name}"


@contextmanager
def _refusals(index: Index) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise CommitError(f"{index.name}: {error}") from error


def _make_live(
    index: Index,
    generation: Generation,
    *,
    and_record: Callable[[Connection], None] = lambda _: None,
) -> Snapshot:
    before, known = latest(index.engine, index.name), told(index)
    # A number that readers were once given is never given again, whatever was restored.
    last = max(before.sequence if before else 0, known.committed if known else 0)
    snapshot = _snapshot(index, generation.collection, last + 1)
    if index.store.count(generation.collection) != snapshot.chunks:
        raise CommitError(
            f"{index.name}: the store does not hold the {snapshot.chunks} chunks of "
            f"{generation.collection}; run `agent-pipelines sync {index.name} --verify`"
        )
    if index.store.alias_target(index.alias) != generation.collection:
        index.store.point_alias(index.alias, generation.collection)
    changes.forget(index.engine, index.name, generation.collection)
    said_before = (
        before is not None and before.sequence == last and _says(before) == _says(snapshot)
    )
    if not said_before:
        tell(index, Told(snapshot.sequence, settled=False))
        with write(index.engine) as connection:
            values = asdict(snapshot)
            connection.execute(insert(snapshots).values(index_name=values.pop("index"), **values))
            and_record(connection)
    committed = before if before and said_before else snapshot
    if known != (settled := Told(committed.sequence, settled=True)):
        tell(index, settled)
    return committed


def _snapshot(index: Index, collection: str, sequence: int) -> Snapshot:
    """What a commit now would record, as one moment of the state database has it."""
    with read(index.engine) as connection:
        source_digest, listed_at = generations.in_step_with(connection, collection)
        if source_digest is None or listed_at is None:
            raise CommitError(
                f"{index.name}: its last sync did not finish; run "
                f"`agent-pipelines sync {index.name}`"
            )
        ledger = index.ledger(collection)
        counts = ledger.counts_in(connection)
        if counts.pending or counts.in_flight:
            raise CommitError(
                f"{index.name}: {counts.pending} documents and {counts.in_flight} chunks are in "
                "flight"
            )
        if counts.documents and not counts.chunks:
            raise CommitError(f"{index.name}: none of its {counts.documents} documents is indexed")
        return Snapshot(
            index=index.name,
            sequence=sequence,
            collection=collection,
            source_digest=source_digest,
            manifest_digest=ledger.manifest_digest_in(connection),
            documents=counts.documents - counts.failed,
            failed_documents=counts.failed,
            chunks=counts.chunks,
            listed_at=listed_at,
            committed_at=datetime.now(UTC),
        )


def _says(snapshot: Snapshot) -> tuple[object, ...]:
    return (
        snapshot.collection,
        snapshot.source_digest,
        snapshot.manifest_digest,
        snapshot.failed_documents,
    )
