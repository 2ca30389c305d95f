"""What we believe is in a generation, per document and per chunk.

Belongs here: the ledger's reads and its two-phase writes. Does not belong here: deciding what to
write (`plan.py`) or writing to the store (`sync.py`). The ledger is a cache: the source is the
truth, and the store is checked.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Table, delete, func, select, update

from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.sources import Ref
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import chunks, documents, tombstones
from agent_pipelines.state.upsert import upsert

DocumentState = Literal["pending", "indexed", "failed"]

#: Bound variables per statement: below SQLite's limit whatever the columns.
_SLICE = 500


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document as the ledger has it."""

    version: str
    content_hash: str
    state: DocumentState
    error: str | None


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk as the ledger has it. Only `present` ones are known to be in the store."""

    id: str
    position: int
    content_hash: str
    state: Literal["writing", "present", "retiring"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A chunk that the ledger says is in the store, and what it must look like there."""

    document_id: str
    position: int
    content_hash: str


@dataclass(frozen=True)
class DocumentWrite:
    """One document's step from the chunks it has to the chunks it should have."""

    ref: Ref
    content_hash: str
    add: Sequence[Chunk]
    """Chunks to write: not known to be in the store."""
    move: Mapping[str, int]
    """Position of chunks that stay but stand elsewhere in the document now."""
    retire: Sequence[str]
    """Ids to delete once everything in `add` is confirmed."""
    gone: bool = False
    """The document itself is no longer in the source."""


@dataclass(frozen=True)
class Counts:
    """What the ledger holds, by state."""

    documents: int
    pending: int
    failed: int
    chunks: int
    in_flight: int


class Ledger:
    """The ledger of one generation."""

    def __init__(self, engine: Engine, index: str, collection: str) -> None:
        self._engine = engine
        self._index = index
        self._collection = collection

    def documents(self) -> dict[str, DocumentRow]:
        """Every document, by id."""
        columns = documents.c
        query = select(
            columns.document_id,
            columns.version,
            columns.content_hash,
            columns.state,
            columns.error,
        ).where(columns.collection == self._collection)
        with self._engine.connect() as connection:
            return {
                row.document_id: DocumentRow(row.version, row.content_hash, row.state, row.error)
                for row in connection.execute(query)
            }

    def failures(self) -> dict[str, str]:
        """Why each failed document failed, by id."""
        return {
            id_: row.error or "no reason given"
            for id_, row in self.documents().items()
            if row.state == "failed"
        }

    def chunks_of(self, document_ids: Sequence[str]) -> dict[str, list[ChunkRow]]:
        """The chunks of these documents, in whatever state."""
        found: dict[str, list[ChunkRow]] = defaultdict(list)
        columns = chunks.c
        with self._engine.connect() as connection:
            for ids in _slices(document_ids):
                query = select(chunks).where(
                    columns.collection == self._collection, columns.document_id.in_(ids)
                )
                for row in connection.execute(query):
                    found[row.document_id].append(
                        ChunkRow(row.chunk_id, row.position, row.content_hash, row.state)
                    )
        return found

    def entries(self) -> dict[str, Entry]:
        """Everything the ledger says is in the store, by chunk id."""
        query = select(chunks).where(
            chunks.c.collection == self._collection, chunks.c.state == "present"
        )
        with self._engine.connect() as connection:
            return {
                row.chunk_id: Entry(row.document_id, row.position, row.content_hash)
                for row in connection.execute(query)
            }

    def in_flight_ids(self) -> set[str]:
        """Ids that may or may not be in the store."""
        query = select(chunks.c.chunk_id).where(
            chunks.c.collection == self._collection, chunks.c.state != "present"
        )
        with self._engine.connect() as connection:
            return set(connection.scalars(query))

    def doubt(self, chunk_ids: Sequence[str]) -> None:
        """Take back that these chunks are in the store; their documents are written again."""
        with write(self._engine) as connection:
            for ids in _slices(chunk_ids):
                owners = select(chunks.c.document_id).where(*self._these(ids))
                connection.execute(
                    update(documents)
                    .where(
                        documents.c.collection == self._collection,
                        documents.c.document_id.in_(owners),
                    )
                    .values(state="pending")
                )
                connection.execute(update(chunks).where(*self._these(ids)).values(state="writing"))

    def sample(self, *, newest: int) -> list[str]:
        """Ids of one chunk each of the most recently written documents."""
        query = (
            select(func.min(chunks.c.chunk_id))
            .join(
                documents,
                (documents.c.collection == chunks.c.collection)
                & (documents.c.document_id == chunks.c.document_id),
            )
            .where(chunks.c.collection == self._collection, chunks.c.state == "present")
            .group_by(chunks.c.document_id, documents.c.updated_at)
            .order_by(documents.c.updated_at.desc(), chunks.c.document_id)
            .limit(newest)
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def counts(self) -> Counts:
        """How many rows stand in which state."""
        by_document = self._count(documents)
        by_chunk = self._count(chunks)
        return Counts(
            documents=sum(by_document.values()),
            pending=by_document["pending"],
            failed=by_document["failed"],
            chunks=by_chunk["present"],
            in_flight=by_chunk["writing"] + by_chunk["retiring"],
        )

    def _count(self, table: Table) -> dict[str, int]:
        query = (
            select(table.c.state, func.count())
            .where(table.c.collection == self._collection)
            .group_by(table.c.state)
        )
        with self._engine.connect() as connection:
            return defaultdict(int, connection.execute(query).all())

    def manifest_digest(self) -> str:
        """SHA-256 over every chunk's id, hash and position, in order of id."""
        query = (
            select(chunks.c.chunk_id, chunks.c.content_hash, chunks.c.position)
            .where(chunks.c.collection == self._collection)
            .order_by(chunks.c.chunk_id)
        )
        digest = hashlib.sha256()
        with self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=10_000).execute(query):
                digest.update(f"{row.chunk_id} {row.content_hash} {row.position}\n".encode())
        return digest.hexdigest()

    def begin(self, writes: Sequence[DocumentWrite]) -> None:
        """First phase: say what is about to change, before the store is touched."""
        with write(self._engine) as connection:
            self._put_documents(connection, writes, state="pending")
            self._put_chunks(connection, writes, state="writing")
            # A moved chunk is in flight too: a crash leaves it at either position.
            for state, of_state in (
                ("writing", [id_ for w in writes for id_ in w.move]),
                ("retiring", [id_ for w in writes for id_ in w.retire]),
            ):
                for ids in _slices(of_state):
                    connection.execute(update(chunks).where(*self._these(ids)).values(state=state))

    def confirm(self, writes: Sequence[DocumentWrite]) -> None:
        """Second phase: the store has confirmed; make it so."""
        with write(self._engine) as connection:
            self._put_chunks(connection, writes, state="present")
            for w in writes:
                for chunk_id, position in w.move.items():
                    connection.execute(
                        update(chunks)
                        .where(*self._these([chunk_id]))
                        .values(position=position, state="present")
                    )
            for ids in _slices([id_ for w in writes for id_ in w.retire]):
                self._bury(connection, ids)
            self._put_documents(connection, [w for w in writes if not w.gone], state="indexed")
            for ids in _slices([w.ref.id for w in writes if w.gone]):
                connection.execute(
                    delete(documents).where(
                        documents.c.collection == self._collection,
                        documents.c.document_id.in_(ids),
                    )
                )

    def settle(self, *, held: Mapping[str, int], gone: Sequence[str]) -> None:
        """End what a crash left in flight: these ids the store holds, where, and these not."""
        with write(self._engine) as connection:
            for chunk_id, position in held.items():
                connection.execute(
                    update(chunks)
                    .where(*self._these([chunk_id]))
                    .values(position=position, state="present")
                )
            for ids in _slices(gone):
                self._bury(connection, ids)

    def fail(self, ref: Ref, error: str) -> None:
        """Record that a document could not be indexed. What it had stays, and stays served."""
        row = self._document(ref, state="failed") | {"error": error, "attempts": 1}
        with write(self._engine) as connection:
            upsert(
                connection,
                documents,
                [row],
                overwrite=("version", "state", "error", "updated_at"),
                add=("attempts",),
            )

    def _these(self, chunk_ids: Sequence[str]) -> Any:
        return chunks.c.collection == self._collection, chunks.c.chunk_id.in_(chunk_ids)

    def _document(self, ref: Ref, *, state: DocumentState) -> dict[str, Any]:
        return {
            "collection": self._collection,
            "document_id": ref.id,
            "version": ref.version,
            "content_hash": "",
            "state": state,
            "error": None,
            "attempts": 0,
            "updated_at": datetime.now(UTC),
        }

    def _put_documents(
        self, connection: Connection, writes: Sequence[DocumentWrite], *, state: DocumentState
    ) -> None:
        rows = [
            self._document(w.ref, state=state) | {"content_hash": w.content_hash} for w in writes
        ]
        columns = ("version", "content_hash", "state", "error", "attempts", "updated_at")
        upsert(connection, documents, rows, overwrite=columns)

    def _put_chunks(
        self,
        connection: Connection,
        writes: Sequence[DocumentWrite],
        *,
        state: Literal["writing", "present"],
    ) -> None:
        rows = [
            {
                "collection": self._collection,
                "chunk_id": chunk.id,
                "document_id": chunk.document_id,
                "position": chunk.position,
                "content_hash": chunk.content_hash,
                "state": state,
            }
            for w in writes
            for chunk in w.add
        ]
        upsert(connection, chunks, rows, overwrite=("position", "state"))

    def _bury(self, connection: Connection, chunk_ids: Sequence[str]) -> None:
        retired = connection.execute(
            select(chunks.c.chunk_id, chunks.c.document_id, chunks.c.content_hash).where(
                *self._these(chunk_ids)
            )
        ).all()
        now = datetime.now(UTC)
        rows = [row._asdict() | {"index_name": self._index, "retired_at": now} for row in retired]
        upsert(connection, tombstones, rows, overwrite=("retired_at",))
        connection.execute(delete(chunks).where(*self._these(chunk_ids)))


def _slices(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _SLICE):
        yield ids[start : start + _SLICE]
