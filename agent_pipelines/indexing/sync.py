"""Bringing one generation in step with its source.

Belongs here: listing → plan → documents → writes, and the report of what was confirmed. Does not
belong here: the order of writes within a batch (`apply.py`) or making the result live (`live.py`).
Whatever a crash leaves, the next sync makes exact.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from time import monotonic

from agent_pipelines.indexing import changes, generations, rotation
from agent_pipelines.indexing.apply import Applier
from agent_pipelines.indexing.batches import batched
from agent_pipelines.indexing.chunking import Chunk, Chunker
from agent_pipelines.indexing.embedding import EmbeddingError, Vectors
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import ChunkRow, DocumentWrite, content_hash_of_document
from agent_pipelines.indexing.listing import Listing
from agent_pipelines.indexing.live import went_back
from agent_pipelines.indexing.overlap import ahead, mapped
from agent_pipelines.indexing.partition import WHOLE, Partition
from agent_pipelines.indexing.plan import (
    DoubtfulListingError,
    Plan,
    make_plan,
    refuse_mass_deletion,
)
from agent_pipelines.indexing.reconcile import WRONG, Census, in_step_by_count, is_sound
from agent_pipelines.indexing.replicas import differing
from agent_pipelines.indexing.sources import Document, DocumentError, GoneError, Ref, SourceError
from agent_pipelines.indexing.store import StoreError
from agent_pipelines.indexing.vectors import VectorSupply
from agent_pipelines.progress import Progress
from agent_pipelines.state import leases

#: Chunks that travel together through embed → write → confirm. Bounds memory and lost work.
BATCH_CHUNKS = 512

#: Documents whose ledger rows are read together, and that wait for the embedder at most.
_BATCH_DOCUMENTS = 64

#: Documents read at once: reading waits, be it for a disk or for a network.
_READERS = 4

#: Changed documents that a report names.
_NAMED = 50


class SyncError(Exception):
    """The sync stopped; what it had confirmed stays, and the next one continues from there."""


@dataclass(frozen=True)
class Change:
    """What a sync did about one document."""

    document_id: str
    kind: str
    """`indexed`, `deleted` or `failed`."""
    reason: str = ""


@dataclass(frozen=True)
class SyncReport:
    """What one sync did, counted from what was confirmed, not from what was asked for."""

    index: str
    collection: str
    source_digest: str
    listed: int
    changed: int
    """Documents that were new or changed, or failed before and were tried again."""
    deleted: int
    """Documents that were no longer in the source."""
    failed: int
    """Documents that could not be indexed; the ledger has why."""
    written: int
    """Chunks confirmed in the store."""
    embedded: int
    """Texts the model was called for; equal texts count once."""
    reused: int
    """Texts that needed no model: the store had their vector."""
    retired: int
    """Chunks deleted from the store."""
    repaired: int
    """Chunks that were missing, altered or nobody's, and are right again."""
    seconds: float
    seconds_listing: float
    seconds_embedding: float
    changes: tuple[Change, ...]
    """The first of the changed, deleted and failed documents."""


def sync(
    index: Index,
    *,
    accept_deletions: bool,
    verify: bool,
    progress: Progress,
    partition: Partition = WHOLE,
) -> SyncReport:
    """Bring the index's generation in step with its source.

    Args:
        index: what to sync.
        accept_deletions: delete even when the listing shrank suspiciously.
        verify: compare every object in the store with the ledger, not only their number.
        progress: where a person sees how far it is.
        partition: the part of the index's documents to sync.

    Raises:
        SyncError: the source or the store failed, or the listing is doubtful.
        UserError: another sync of this index is running, or its spec was rolled back.
        UnavailableError: the store or the state database does not answer.
    """
    whole = f"index {index.name}"
    name = whole if partition.of == 1 else f"{whole} {partition.number + 1}/{partition.of}"

    def rival(other: str) -> bool:
        """A sync that splits the index otherwise would write the same documents."""
        if partition.of == 1:
            return other.startswith(f"{whole} ")
        split = other.startswith(f"{whole} ") and not other.endswith(f"/{partition.of}")
        return other == whole or split

    with leases.hold(index.engine, name, rival=rival) as lease:
        try:
            return _Sync(index, lease, progress, partition).run(accept_deletions, verify)
        except (SourceError, StoreError, EmbeddingError, leases.LeaseLostError) as error:
            raise SyncError(f"{index.name}: {error}") from error
        except DoubtfulListingError as error:
            raise SyncError(
                f"{index.name}: {error}. Nothing was deleted. If the listing is right: "
                f"agent-pipelines sync {index.name} --accept-deletions"
            ) from error


@dataclass(frozen=True)
class _Failure:
    """A document that could not be read or cut."""

    ref: Ref
    reason: str
    rows: Sequence[ChunkRow]


@dataclass(frozen=True)
class _Batch:
    """Documents on their way into the store."""

    writes: Sequence[DocumentWrite]
    failures: Sequence[_Failure]
    vectors: Vectors


class _Sync:
    """One run of `sync`, holding the lease."""

    def __init__(
        self, index: Index, lease: leases.Lease, progress: Progress, partition: Partition
    ) -> None:
        self._index = index
        self._lease = lease
        self._progress = progress
        self._partition = partition
        self._generation = generations.open_for(
            index.engine, index.store, index.name, index.spec, index.settings
        )
        self._collection = self._generation.collection
        self._ledger = index.ledger(self._collection, partition, lease)
        self._applier = Applier(index, self._collection, self._ledger)
        self._supply = VectorSupply(index, self._generation, self._ledger, lease)
        self._failed = 0
        self._changes: list[Change] = []

    def run(self, accept_deletions: bool, verify: bool) -> SyncReport:
        started, listed_at = monotonic(), datetime.now(UTC)
        with self._progress.stage(f"{self._label}: listing the source"):
            listing = Listing(self._index.source.list())
        seconds_listing = monotonic() - started
        with listing:
            # For the whole index, before anything is touched: doubt must change nothing at all.
            plan = make_plan(listing, self._index.ledger(self._collection).documents())
            not_live = self._undoubted(listing, plan, accept_deletions)
            # What is not live yet is told by what readers have, not by what is being built.
            changes.observe(
                self._index.engine,
                self._index.name,
                not_live,
                listed_at=listed_at,
                seconds=seconds_listing,
            )
            repaired = self._reconcile(verify)
            if repaired:  # what was doubted is to be written again
                plan = make_plan(listing, self._ledger.documents())
            plan = plan.of(self._partition)
            if plan.upserts or plan.retries or plan.deletions:
                self._mark_in_flux()
                self._upsert(plan)
                self._delete(plan)
            generations.mark_in_step(
                self._lease,
                self._collection,
                self._partition,
                source_digest=plan.source_digest,
                listed_at=listed_at,
            )
            return SyncReport(
                index=self._index.name,
                collection=self._collection,
                source_digest=plan.source_digest,
                listed=plan.listed,
                changed=plan.upserts + plan.retries,
                deleted=plan.deletions,
                failed=self._failed,
                written=self._applier.applied.written,
                embedded=self._supply.embedded,
                reused=self._supply.reused,
                retired=self._applier.applied.retired,
                repaired=repaired,
                seconds=monotonic() - started,
                seconds_listing=seconds_listing,
                seconds_embedding=self._supply.seconds,
                changes=tuple(self._changes),
            )

    @property
    def _label(self) -> str:
        part = "" if self._partition.of == 1 else f" {self._partition}"
        return f"{self._index.name}{part}"

    def _undoubted(self, listing: Listing, plan: Plan, accept_deletions: bool) -> Plan:
        """What the listing changes for readers; stops before a doubtful one takes anything away.

        A new generation starts empty: a doubtful listing deletes nothing from it, and still would
        take from readers what they have once it is live. So what they have is compared as well.
        """
        engine, name = self._index.engine, self._index.name
        share, not_live = self._index.max_delete_share, plan
        if not accept_deletions:
            refuse_mass_deletion(plan, max_delete_share=share)
        live = generations.live(engine, name)
        if live is not None and live.collection != self._collection:
            not_live = make_plan(listing, self._index.ledger(live.collection).documents())
            if not accept_deletions:
                refuse_mass_deletion(not_live, max_delete_share=share)
        elif live is None and not accept_deletions:
            self._refuse_unknown(listing, plan)
        return not_live

    def _refuse_unknown(self, listing: Listing, plan: Plan) -> None:
        """An empty listing must not replace a generation whose ledger was lost."""
        store = self._index.store
        if len(listing) or plan.indexed:
            return
        served = store.alias_target(self._index.alias)
        if served in (None, self._collection) or served not in store.collections():
            return
        if chunks := store.count(served):
            raise DoubtfulListingError(
                f"the source now lists no documents, but readers are served {chunks} chunks"
            )

    def _reconcile(self, verify: bool) -> int:
        """Doubt what is wrong in the store; returns how much was."""
        suspected, compared = self._doubt_suspects(), self._compare(verify)
        return suspected + compared + (self._compare_replicas() if verify else 0)

    def _doubt_suspects(self) -> int:
        """What an audit found; a comparison with the ledger does not see it."""
        found = rotation.suspected(self._index.engine, self._collection)
        mine = {
            flaw: [
                id_
                for id_, entry in self._ledger.entries(ids).items()
                if entry.is_there and self._partition.has(entry.document_id)
            ]
            for flaw, ids in found.items()
        }
        suspects = {id_ for ids in mine.values() for id_ in ids}
        if suspects:
            self._mark_in_flux()
        self._ledger.doubt(mine["wrong vector"])
        self._ledger.doubt(mine["not found"], half_written=True)
        self._ledger.doubt(mine["replicas differ"])
        # What has the same text may have the same wrong vector; of replicas any may be read.
        self._supply.copies = not (found["wrong vector"] or found["replicas differ"])
        known = self._ledger.entries(found["replicas differ"])
        left = [id_ for id_ in found["replicas differ"] if id_ not in known]
        if left:
            self._index.store.purge(self._collection, left)
        rotation.doubted(self._index.engine, self._collection, [*suspects, *left])
        return len(suspects) + len(left)

    def _compare(self, verify: bool) -> int:
        store, ledger = self._index.store, self._ledger
        # Whoever was cut off may have been writing until a moment ago, or be writing still, and a
        # backup that was restored may hold as many objects: equal numbers prove nothing then.
        doubted = verify or self._lease.taken_over or went_back(self._index)
        if not doubted and in_step_by_count(store, self._collection, ledger, self._partition):
            return 0
        with (
            self._progress.stage(f"{self._label}: comparing ledger and store"),
            Census(store, self._generation, ledger, self._partition, search=verify) as census,
        ):
            # Listing and comparing may have taken long: another writer's chunks are no orphans.
            self._lease.renew()
            for orphans in batched(census.ids("orphan"), BATCH_CHUNKS):
                store.delete(self._collection, orphans)
            torn = ledger.twice(limit=1) or any(True for _ in ledger.incomplete())
            if not (torn or census.count("not found", *WRONG)):
                return census.count("orphan")
            self._mark_in_flux()
            for doubtful in batched(census.ids(*WRONG), BATCH_CHUNKS):
                ledger.doubt(doubtful)
            for lost in batched(census.ids("not found"), BATCH_CHUNKS):
                ledger.doubt(lost, half_written=True)
            twice = ledger.twice()
            ledger.doubt(twice)
            # Of those that were not doubted yet.
            incomplete = list(ledger.incomplete())
            ledger.reopen(incomplete)
            return census.count("orphan", "not found", *WRONG) + len(twice) + len(incomplete)

    def _compare_replicas(self) -> int:
        """Doubt what a node missed, or holds otherwise; while one is away nothing is compared."""
        replication = self._index.store.replication(self._collection)
        if replication.factor == 1 or replication.silent:
            return 0
        odd: list[str] = []
        with self._progress.stage(f"{self._label}: comparing replicas"):
            for ids in batched(self._ledger.present_ids(), BATCH_CHUNKS):
                self._lease.renew()
                odd += differing(self._index.store, replication, self._ledger, ids)
        if odd:
            self._mark_in_flux()
            self._ledger.doubt(odd)
            self._supply.copies = False
        return len(odd)

    def _mark_in_flux(self) -> None:
        """Before the ledger is: who compares it with the store meanwhile is not to be alarmed."""
        generations.mark_in_flux(self._lease, self._collection, self._partition)

    def _upsert(self, plan: Plan) -> None:
        total = plan.upserts + plan.retries
        with ExitStack() as stack:
            stage = stack.enter_context(
                self._progress.stage(f"{self._label}: indexing", total=total, unit="documents")
            )
            # Reading and cutting run ahead of the model, and the model runs ahead of the store.
            prepared = self._prepared(chain(plan.upsert(), plan.retry()))
            cut = stack.enter_context(ahead(prepared, size=_BATCH_DOCUMENTS))
            batches = stack.enter_context(ahead(self._embedded(cut), size=1))
            for batch in batches:
                self._lease.renew()
                self._applier.apply(batch.writes, batch.vectors)
                self._fail(batch.failures)
                self._note("indexed", [w.ref.id for w in batch.writes])
                stage.advance(len(batch.writes) + len(batch.failures))

    def _prepared(self, refs: Iterator[Ref]) -> Iterator[DocumentWrite | _Failure]:
        chunker = Chunker(self._index.chunker, self._index.embedder.tokenizer())
        for slice_ in batched(refs, _BATCH_DOCUMENTS):
            rows = self._ledger.chunks_of([ref.id for ref in slice_])
            with closing(mapped(self._read, slice_, workers=_READERS)) as documents:
                for ref, document in zip(slice_, documents, strict=True):
                    has = rows.get(ref.id, [])
                    if document is None:
                        continue  # what is there of it goes when the listing says so
                    if isinstance(document, Document):
                        yield self._cut(chunker, ref, document, has)
                    else:
                        yield _Failure(ref, document, has)

    def _read(self, ref: Ref) -> Document | str | None:
        """The document, or why it cannot be read; None where it is not there any more."""
        try:
            return self._index.source.load(ref)
        except GoneError:
            return None
        except DocumentError as error:
            return str(error)
        except Exception as error:  # a user's own source may raise anything
            return f"{type(error).__name__}: {error}"

    def _cut(
        self, chunker: Chunker, ref: Ref, document: Document, rows: Sequence[ChunkRow]
    ) -> DocumentWrite | _Failure:
        fingerprint = self._generation.fingerprint
        try:
            target = chunker.chunks(document, index=self._index.name, fingerprint=fingerprint)
        except DocumentError as error:
            return _Failure(ref, str(error), rows)
        return document_write(ref, target, rows)

    def _embedded(self, prepared: Iterator[DocumentWrite | _Failure]) -> Iterator[_Batch]:
        writes: list[DocumentWrite] = []
        failures: list[_Failure] = []
        chunks = 0
        for item in prepared:
            if isinstance(item, _Failure):
                failures.append(item)
            else:
                writes.append(item)
                chunks += len(item.add)
            # Documents that add nothing, or that fail, must not pile up either.
            if chunks >= BATCH_CHUNKS or len(writes) + len(failures) >= BATCH_CHUNKS:
                yield self._with_vectors(writes, failures)
                writes, failures, chunks = [], [], 0
        yield self._with_vectors(writes, failures)

    def _with_vectors(
        self, writes: Sequence[DocumentWrite], failures: Sequence[_Failure]
    ) -> _Batch:
        return _Batch(writes, failures, self._supply.of([c for w in writes for c in w.add]))

    def _fail(self, failures: Sequence[_Failure]) -> None:
        if not failures:
            return
        for failure in failures:
            self._settle(failure)
        self._ledger.fail([(failure.ref, failure.reason) for failure in failures])
        self._failed += len(failures)
        for failure in failures:
            self._note("failed", [failure.ref.id], failure.reason)

    def _settle(self, failure: _Failure) -> None:
        """End what a crash left in flight of a document that cannot be read now.

        What was confirmed of it and is still in the store stays served; left in flight it would
        keep every later sync from becoming live.
        """
        in_flight = {row.id: row for row in failure.rows if row.state != "present"}
        if not in_flight:
            return
        states = {row.state for row in failure.rows}
        # What replaces them was confirmed, and they were about to go.
        replaced = "retiring" in states and not states.isdisjoint(("present", "moving"))
        stored = self._index.store.get(self._collection, list(in_flight))
        held = {
            id_: found.chunk.position
            for id_, found in stored.items()
            if is_sound(found, self._generation)
            and in_flight[id_].content_hash == found.chunk.content_hash
            and in_flight[id_].state != "writing"
            and not (replaced and in_flight[id_].state == "retiring")
        }
        gone = [id_ for id_ in in_flight if id_ not in held]
        if gone:
            self._index.store.delete(self._collection, gone)
        self._ledger.settle(failure.ref.id, held=held, gone=gone)

    def _delete(self, plan: Plan) -> None:
        none = self._supply.of([])
        for ids in batched(plan.delete(), _BATCH_DOCUMENTS):
            chunks = self._ledger.chunks_of(ids)
            self._lease.renew()
            self._applier.apply([_deletion(id_, chunks.get(id_, [])) for id_ in ids], none)
            self._note("deleted", ids)

    def _note(self, kind: str, ids: Sequence[str], reason: str = "") -> None:
        left = _NAMED - len(self._changes)
        self._changes += [Change(id_, kind, reason) for id_ in ids[: max(left, 0)]]


def _deletion(document_id: str, rows: Sequence[ChunkRow]) -> DocumentWrite:
    retire = [row.id for row in rows]
    return DocumentWrite(Ref(document_id, ""), "", add=(), move={}, retire=retire, gone=True)


def document_write(ref: Ref, target: Sequence[Chunk], rows: Sequence[ChunkRow]) -> DocumentWrite:
    """What it takes to turn the chunks a document has into those it should have.

    Rows in flight are what a crash left: they are written again if wanted, deleted if not.
    """
    there = {row.id: row for row in rows if row.state in ("present", "moving")}
    half_written = {row.id for row in rows if row.state == "writing"}
    wanted = {chunk.id for chunk in target}
    return DocumentWrite(
        ref=ref,
        content_hash=content_hash_of_document([chunk.content_hash for chunk in target]),
        add=[chunk for chunk in target if chunk.id not in there],
        move={
            chunk.id: chunk.position
            for chunk in target
            if (row := there.get(chunk.id))
            and (row.state == "moving" or row.position != chunk.position)
        },
        retire=[row.id for row in rows if row.id not in wanted],
        half_written=[chunk.id for chunk in target if chunk.id in half_written],
    )
