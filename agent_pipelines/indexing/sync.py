"""Bringing one generation in step with its source.

Belongs here: listing → plan → documents → writes, and the report of what was confirmed. Does not
belong here: the order of writes within a batch (`apply.py`) or making the result live (`live.py`).
Whatever a crash leaves, the next sync makes exact.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from agent_pipelines.indexing import changes, generations, reconcile
from agent_pipelines.indexing.apply import Applier
from agent_pipelines.indexing.chunking import Chunk, Chunker, content_hash_of
from agent_pipelines.indexing.embedding import EmbeddingError
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import ChunkRow, DocumentRow, DocumentWrite
from agent_pipelines.indexing.plan import (
    DoubtfulListingError,
    Plan,
    make_plan,
    refuse_mass_deletion,
)
from agent_pipelines.indexing.sources import DocumentError, Listing, Ref, SourceError
from agent_pipelines.indexing.store import StoreError
from agent_pipelines.progress import Progress
from agent_pipelines.state import leases

#: Chunks that travel together through embed → write → confirm. Bounds memory and lost work.
BATCH_CHUNKS = 256

#: Documents whose ledger rows are read together.
_BATCH_DOCUMENTS = 64


class SyncError(Exception):
    """The sync stopped; what it had confirmed stays, and the next one continues from there."""


@dataclass(frozen=True)
class SyncReport:
    """What one sync did, counted from what was confirmed, not from what was asked for."""

    index: str
    collection: str
    source_digest: str
    listed: int
    changed: tuple[str, ...]
    """Documents that were new or changed, or failed before and were tried again."""
    deleted: tuple[str, ...]
    """Documents that were no longer in the source."""
    failed: dict[str, str]
    """Documents that could not be indexed, and why."""
    written: int
    """Chunks confirmed in the store."""
    embedded: int
    """Texts the model was called for; equal texts count once."""
    retired: int
    """Chunks deleted from the store."""
    repaired: int
    """Chunks that were missing, altered or nobody's, and are right again."""
    seconds: float
    seconds_listing: float
    seconds_embedding: float


def sync(index: Index, *, accept_deletions: bool, verify: bool, progress: Progress) -> SyncReport:
    """Bring the index's generation in step with its source.

    Args:
        index: what to sync.
        accept_deletions: delete even when the listing shrank suspiciously.
        verify: compare every object in the store with the ledger, not only their number.
        progress: where a person sees how far it is.

    Raises:
        SyncError: the source or the store failed, or the listing is doubtful.
        UserError: another sync of this index is running.
        UnavailableError: the store or the state database does not answer.
    """
    with leases.hold(index.engine, f"index {index.name}") as lease:
        try:
            return _Sync(index, lease, progress).run(accept_deletions, verify)
        except (SourceError, StoreError, EmbeddingError, leases.LeaseLostError) as error:
            raise SyncError(f"{index.name}: {error}") from error
        except DoubtfulListingError as error:
            raise SyncError(
                f"{index.name}: {error}. Nothing was deleted. If the listing is right: "
                f"agent-pipelines sync {index.name} --accept-deletions"
            ) from error


class _Sync:
    """One run of `sync`, holding the lease."""

    def __init__(self, index: Index, lease: leases.Lease, progress: Progress) -> None:
        self._index = index
        self._lease = lease
        self._progress = progress
        generation = generations.open_for(index.engine, index.store, index.name, index.spec)
        self._collection = generation.collection
        self._ledger = index.ledger(generation.collection)
        self._applier = Applier(index, generation.collection, self._ledger)
        self._failed: dict[str, str] = {}

    def run(self, accept_deletions: bool, verify: bool) -> SyncReport:
        started, listed_at = monotonic(), datetime.now(UTC)
        listing = self._list()
        seconds_listing = monotonic() - started

        # Planned before anything is touched: a doubtful listing must change nothing at all.
        rows = self._ledger.documents()
        self._refuse(listing, rows, accept_deletions)
        served = self._served_documents()
        if served is not None:
            self._refuse(listing, served, accept_deletions)
        elif not accept_deletions:
            self._refuse_unknown(listing)
        repaired = self._reconcile(verify)
        plan = make_plan(listing, self._ledger.documents())
        # What is not live yet is told by what readers have, not by what is being built.
        not_live = plan if served is None else make_plan(listing, served)
        changes.observe(self._index.engine, self._index.name, not_live, listed_at=listed_at)
        work = [*plan.upsert, *plan.retry]
        if work or plan.delete:
            generations.mark_in_flux(self._index.engine, self._collection)
            self._upsert(work)
            self._delete(plan, rows)
        generations.mark_in_step(
            self._index.engine,
            self._collection,
            source_digest=plan.source_digest,
            listed_at=listed_at,
        )
        applied = self._applier.applied
        return SyncReport(
            index=self._index.name,
            collection=self._collection,
            source_digest=plan.source_digest,
            listed=plan.listed,
            changed=tuple(ref.id for ref in work),
            deleted=tuple(plan.delete),
            failed=self._failed,
            written=applied.written,
            embedded=applied.embedded,
            retired=applied.retired,
            repaired=repaired,
            seconds=monotonic() - started,
            seconds_listing=seconds_listing,
            seconds_embedding=applied.seconds_embedding,
        )

    def _list(self) -> Listing:
        with self._progress.stage(f"{self._index.name}: listing the source"):
            return self._index.source.list()

    def _refuse(
        self, listing: Listing, rows: dict[str, DocumentRow], accept_deletions: bool
    ) -> None:
        plan = make_plan(listing, rows)
        if not accept_deletions:
            refuse_mass_deletion(
                plan, indexed=len(rows), max_delete_share=self._index.max_delete_share
            )

    def _served_documents(self) -> dict[str, DocumentRow] | None:
        """The ledger of the generation readers have, where that is not the one synced here.

        A new generation starts empty: a doubtful listing deletes nothing from it, and still would
        take from readers what they have once it is live.
        """
        live = generations.live(self._index.engine, self._index.name)
        if live is None or live.collection == self._collection:
            return None
        return self._index.ledger(live.collection).documents()

    def _refuse_unknown(self, listing: Listing) -> None:
        """An empty listing must not replace a generation whose ledger was lost."""
        store = self._index.store
        if listing.refs or self._ledger.documents():
            return
        served = store.alias_target(self._index.alias)
        if served in (None, self._collection) or served not in store.collections():
            return
        if chunks := store.count(served):
            raise DoubtfulListingError(
                f"the source now lists no documents, but readers are served {chunks} chunks"
            )

    def _reconcile(self, verify: bool) -> int:
        store, ledger = self._index.store, self._ledger
        if not verify and reconcile.in_step_by_count(store, self._collection, ledger):
            return 0
        with self._progress.stage(f"{self._index.name}: comparing ledger and store"):
            difference = reconcile.compare(self._index, self._collection, ledger)
        # Listing and comparing may have taken long: another writer's chunks are no orphans.
        self._lease.renew()
        if difference.orphans:
            store.delete(self._collection, difference.orphans)
        ledger.doubt(difference.doubtful)
        return len(difference.orphans) + len(difference.doubtful)

    def _upsert(self, refs: Sequence[Ref]) -> None:
        if not refs:
            return
        with self._progress.stage(
            f"{self._index.name}: indexing", total=len(refs), unit="documents"
        ) as stage:
            batch: list[DocumentWrite] = []
            for write in self._writes(refs):
                batch.append(write)
                if sum(len(w.add) for w in batch) >= BATCH_CHUNKS:
                    self._apply(batch)
                    stage.advance(len(batch))
                    batch = []
            self._apply(batch)
            stage.advance(len(batch))

    def _writes(self, refs: Sequence[Ref]) -> Iterator[DocumentWrite]:
        chunker = Chunker(self._index.chunker, self._index.embedder.tokenizer())
        for start in range(0, len(refs), _BATCH_DOCUMENTS):
            slice_ = refs[start : start + _BATCH_DOCUMENTS]
            rows = self._ledger.chunks_of([ref.id for ref in slice_])
            for ref in slice_:
                try:
                    write = self._write(chunker, ref, rows.get(ref.id, []))
                except Exception as error:  # a user's own source may raise anything
                    expected = isinstance(error, DocumentError)
                    reason = str(error) if expected else f"{type(error).__name__}: {error}"
                    self._failed[ref.id] = reason
                    self._settle(rows.get(ref.id, []))
                    self._ledger.fail(ref, reason)
                else:
                    yield write

    def _write(self, chunker: Chunker, ref: Ref, rows: Sequence[ChunkRow]) -> DocumentWrite:
        document = self._index.source.load(ref)
        target = chunker.chunks(
            document, index=self._index.name, fingerprint=self._index.spec.fingerprint
        )
        return document_write(ref, target, rows)

    def _settle(self, rows: Sequence[ChunkRow]) -> None:
        """End what a crash left in flight of a document that cannot be read now.

        What the store holds of it stays served, be it from before the crash, from after, or both;
        left in flight it would keep every later sync from becoming live.
        """
        hashes = {row.id: row.content_hash for row in rows if row.state != "present"}
        if not hashes:
            return
        self._lease.renew()
        held = {
            id_: stored.chunk.position
            for id_, stored in self._index.store.get(self._collection, list(hashes)).items()
            if reconcile.is_sound(stored, self._index)
            and hashes[id_]
            == stored.chunk.content_hash
            == content_hash_of(stored.chunk.text, stored.chunk.title, stored.chunk.uri)
        }
        gone = [id_ for id_ in hashes if id_ not in held]
        if gone:
            self._index.store.delete(self._collection, gone)
        self._ledger.settle(held=held, gone=gone)

    def _delete(self, plan: Plan, rows: dict[str, DocumentRow]) -> None:
        for start in range(0, len(plan.delete), _BATCH_DOCUMENTS):
            ids = plan.delete[start : start + _BATCH_DOCUMENTS]
            chunks = self._ledger.chunks_of(ids)
            self._apply(
                [
                    DocumentWrite(
                        ref=Ref(id_, rows[id_].version),
                        content_hash=rows[id_].content_hash,
                        add=(),
                        move={},
                        retire=[row.id for row in chunks.get(id_, [])],
                        gone=True,
                    )
                    for id_ in ids
                ]
            )

    def _apply(self, writes: Sequence[DocumentWrite]) -> None:
        self._lease.renew()
        self._applier.apply(writes)


def document_write(ref: Ref, target: Sequence[Chunk], rows: Sequence[ChunkRow]) -> DocumentWrite:
    """What it takes to turn the chunks a document has into those it should have.

    Rows in flight are what a crash left: they are written again if wanted, deleted if not.
    """
    present = {row.id: row for row in rows if row.state == "present"}
    wanted = {chunk.id for chunk in target}
    return DocumentWrite(
        ref=ref,
        content_hash=hashlib.sha256("".join(c.content_hash for c in target).encode()).hexdigest(),
        add=[chunk for chunk in target if chunk.id not in present],
        move={
            chunk.id: chunk.position
            for chunk in target
            if chunk.id in present and present[chunk.id].position != chunk.position
        },
        retire=[row.id for row in rows if row.id not in wanted],
    )
