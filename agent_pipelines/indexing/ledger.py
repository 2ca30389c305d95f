"""What we believe is in a generation, per document and per chunk.

Belongs here: the ledger's reads and its two-phase writes. Does not belong here: deciding what to
write (`plan.py`) or writing to the store (`apply.py`). The ledger is a cache: the source is the
truth, and the store is checked.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    delete,
    except_,
    func,
    select,
    update,
)

from agent_pipelines.indexing.batches import batched
from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.partition import WHOLE, Partition, bucket_of
from agent_pipelines.indexing.sources import Ref
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.leases import Lease
from agent_pipelines.state.tables import chunks, documents, tombstones
from agent_pipelines.state.upsert import upsert

DocumentState = Literal["pending", "indexed", "failed"]
ChunkState = Literal["writing", "present", "moving", "doubted", "retiring"]

#: States of chunks that were confirmed: in the store, whatever crashed since.
_THERE: tuple[ChunkState, ...] = ("present", "moving")

#: Bound variables per statement: below SQLite's limit whatever the columns.
_SLICE = 500

#: Rows that a long read holds in memory.
_PAGE = 5_000


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document as the ledger has it."""

    id: str
    version: str
    state: DocumentState


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk as the ledger has it. Only `present` ones are known to be right in the store."""

    id: str
    position: int
    content_hash: str
    state: ChunkState


@dataclass(frozen=True, slots=True)
class Entry:
    """What a chunk must look like in the store, where the ledger says that it is there."""

    document_id: str
    position: int
    content_hash: str
    state: ChunkState = "present"

    @property
    def is_there(self) -> bool:
        """Whether it was confirmed, and nothing has been done to it since but to move it."""
        return self.state in _THERE


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
    half_written: Sequence[str] = ()
    """Ids in `add` that a crash may have left half in the store."""
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
    """The ledger of one generation, or of one partition of it."""

    def __init__(
        self,
        engine: Engine,
        index: str,
        collection: str,
        partition: Partition = WHOLE,
        lease: Lease | None = None,
    ) -> None:
        """With a lease, every write fails once another writer has taken it."""
        self._engine = engine
        self._index = index
        self._collection = collection
        self._partition = partition
        self._lease = lease

    def documents(self) -> Iterator[DocumentRow]:
        """Every document, read page by page."""
        columns = documents.c
        query = select(columns.document_id, columns.version, columns.state)
        with read(self._engine) as connection:
            for row in connection.execution_options(yield_per=_PAGE).execute(
                query.where(*self._mine(documents))
            ):
                yield DocumentRow(*row)

    def failures(self, *, limit: int | None = None) -> dict[str, str]:
        """Why each failed document failed, by id."""
        columns = documents.c
        query = (
            select(columns.document_id, columns.error)
            .where(*self._mine(documents), columns.state == "failed")
            .order_by(columns.document_id)
            .limit(limit)
        )
        with read(self._engine) as connection:
            return {id_: error or "no reason given" for id_, error in connection.execute(query)}

    def chunks_of(self, document_ids: Sequence[str]) -> dict[str, list[ChunkRow]]:
        """The chunks of these documents, in whatever state."""
        found: dict[str, list[ChunkRow]] = defaultdict(list)
        columns = chunks.c
        with read(self._engine) as connection:
            for ids in batched(document_ids, _SLICE):
                query = select(chunks).where(
                    columns.collection == self._collection, columns.document_id.in_(ids)
                )
                for row in connection.execute(query):
                    found[row.document_id].append(
                        ChunkRow(row.chunk_id, row.position, row.content_hash, row.state)
                    )
        return found

    def entries(self, chunk_ids: Sequence[str]) -> dict[str, Entry]:
        """What the ledger knows of these chunks; nothing of those it does not know."""
        found = {}
        with read(self._engine) as connection:
            for ids in batched(chunk_ids, _SLICE):
                for row in connection.execute(select(chunks).where(*self._these(ids))):
                    found[row.chunk_id] = Entry(
                        row.document_id, row.position, row.content_hash, row.state
                    )
        return found

    def present_ids(self) -> Iterator[str]:
        """Ids of everything the ledger says is in the store, read page by page."""
        query = select(chunks.c.chunk_id).where(*self._mine(chunks), chunks.c.state.in_(_THERE))
        with read(self._engine) as connection:
            yield from connection.execution_options(yield_per=_PAGE).scalars(query)

    def with_text(self, text_hashes: Sequence[str]) -> dict[str, str]:
        """The id of a stored chunk with each of these texts, by text hash, where there is one.

        Of the whole generation: a vector depends on the text alone.
        """
        found: dict[str, str] = {}
        columns = chunks.c
        with read(self._engine) as connection:
            for hashes in batched(text_hashes, _SLICE):
                query = (
                    select(columns.text_hash, func.min(columns.chunk_id))
                    .where(
                        columns.collection == self._collection,
                        columns.text_hash.in_(hashes),
                        columns.state == "present",
                    )
                    .group_by(columns.text_hash)
                )
                found.update(connection.execute(query).all())
        return found

    def sample(self, *, newest: int) -> list[str]:
        """Ids of one chunk each of the most recently written documents."""
        recent = (
            select(documents.c.document_id, documents.c.updated_at)
            .where(*self._mine(documents), documents.c.state == "indexed")
            .order_by(documents.c.updated_at.desc(), documents.c.document_id)
            .limit(newest)
            .subquery()
        )
        query = (
            select(func.min(chunks.c.chunk_id))
            .join(recent, chunks.c.document_id == recent.c.document_id)
            .where(*self._mine(chunks), chunks.c.state == "present")
            .group_by(chunks.c.document_id)
        )
        with read(self._engine) as connection:
            return list(connection.scalars(query))

    def some(self, count: int, *, after: str) -> list[str]:
        """Ids of the `count` chunks that follow this id, the first ones after the last.

        By chance where `after` is random: ids are hashes.
        """
        id_ = chunks.c.chunk_id
        query = select(id_).where(*self._mine(chunks), chunks.c.state == "present").order_by(id_)
        with read(self._engine) as connection:
            found = list(connection.scalars(query.where(id_ > after).limit(count)))
            rest = query.where(id_ <= after).limit(count - len(found))
            return found + list(connection.scalars(rest))

    def retired(self, *, newest: int) -> dict[str, str]:
        """Document of each chunk that was retired last and has not come back, by id."""
        columns = tombstones.c
        query = (
            select(columns.chunk_id, columns.document_id)
            .where(columns.index_name == self._index)
            .order_by(columns.retired_at.desc(), columns.chunk_id)
            .limit(newest)
        )
        with read(self._engine) as connection:
            gone = {row.chunk_id: row.document_id for row in connection.execute(query)}
        # The same text in the same place has the same id again.
        back = self.entries(list(gone))
        return {id_: document for id_, document in gone.items() if id_ not in back}

    def twice(self, *, limit: int | None = None) -> list[str]:
        """Ids of chunks that share their place in an indexed document with another one.

        What is left of a document that failed may stand where it stood at different times.
        """
        columns = chunks.c
        indexed = select(documents.c.document_id).where(
            *self._mine(documents), documents.c.state == "indexed"
        )
        places = (
            select(columns.document_id, columns.position)
            .where(*self._mine(chunks), columns.state == "present")
            .group_by(columns.document_id, columns.position)
            .having(func.count() > 1)
            .subquery()
        )
        query = (
            select(columns.chunk_id)
            .join(
                places,
                (columns.document_id == places.c.document_id)
                & (columns.position == places.c.position),
            )
            .where(*self._mine(chunks), columns.document_id.in_(indexed))
            .order_by(columns.document_id, columns.position, columns.chunk_id)
            .limit(limit)
        )
        with read(self._engine) as connection:
            return list(connection.scalars(query))

    def incomplete(self) -> Iterator[str]:
        """Ids of indexed documents whose chunks are not those, or not in the order, that were cut.

        By their content hash, which covers the hashes of their chunks.
        """
        document, chunk = documents.c, chunks.c
        present = (*self._mine(chunks), chunk.state == "present")
        indexed = (*self._mine(documents), document.state == "indexed")
        # Looked up by primary key for every chunk. As a join it is left to the planner, and SQLite,
        # which has no statistics, looks through all chunks for every document.
        expected = (
            select(document.content_hash)
            .where(
                document.collection == chunk.collection,
                document.document_id == chunk.document_id,
                document.state == "indexed",
            )
            .scalar_subquery()
        )
        cut = (
            select(chunk.document_id, expected, chunk.content_hash)
            .where(*present)
            .order_by(chunk.document_id, chunk.position, chunk.chunk_id)
        )
        without = except_(
            select(document.document_id).where(*indexed),
            select(chunk.document_id).where(*present),
        )
        with read(self._engine) as connection:
            connection = connection.execution_options(yield_per=_PAGE)
            yield from connection.execute(without).scalars()
            rows = connection.execute(cut)
            for (id_, content_hash), its in groupby(rows, key=lambda row: (row[0], row[1])):
                if content_hash is None:  # not indexed: the next sync reads it anyway
                    continue
                if content_hash_of_document([row[2] for row in its]) != content_hash:
                    yield id_

    def reopen(self, document_ids: Sequence[str]) -> None:
        """Have the next sync read these documents again."""
        with self._write() as connection:
            for ids in batched(document_ids, _SLICE):
                connection.execute(
                    update(documents)
                    .where(
                        documents.c.collection == self._collection,
                        documents.c.document_id.in_(ids),
                    )
                    .values(state="pending")
                )

    def counts(self) -> Counts:
        """How many rows stand in which state."""
        with read(self._engine) as connection:
            return self.counts_in(connection)

    def counts_in(self, connection: Connection) -> Counts:
        """The same, as one transaction sees it."""
        by_document = self._count(connection, documents)
        by_chunk = self._count(connection, chunks)
        return Counts(
            documents=sum(by_document.values()),
            pending=by_document["pending"],
            failed=by_document["failed"],
            chunks=by_chunk["present"],
            in_flight=sum(by_chunk.values()) - by_chunk["present"],
        )

    def _count(self, connection: Connection, table: Table) -> dict[str, int]:
        query = (
            select(table.c.state, func.count()).where(*self._mine(table)).group_by(table.c.state)
        )
        return defaultdict(int, connection.execute(query).all())

    def manifest_digest_in(self, connection: Connection) -> str:
        """SHA-256 over every document's id and content hash, in order of id.

        A content hash covers the hashes of the document's chunks in their order, and so their ids
        and positions: equal digests mean equal content.
        """
        columns = documents.c
        query = select(columns.document_id, columns.content_hash).where(*self._mine(documents))
        digest = hashlib.sha256()
        rows = connection.execution_options(yield_per=_PAGE).execute(
            query.order_by(columns.document_id)
        )
        for id_, content_hash in rows:
            digest.update(f"{id_}\0{content_hash}\n".encode())
        return digest.hexdigest()

    def doubt(self, chunk_ids: Sequence[str], *, half_written: bool = False) -> None:
        """Take back that these chunks are right in the store; their documents are written again.

        What is half-written, in the store and not in its vector index, is deleted before that.
        """
        with self._write() as connection:
            for ids in batched(chunk_ids, _SLICE):
                owners = select(chunks.c.document_id).where(*self._these(ids))
                connection.execute(
                    update(documents)
                    .where(
                        documents.c.collection == self._collection,
                        documents.c.document_id.in_(owners),
                    )
                    .values(state="pending")
                )
                self._set_state(connection, ids, "writing" if half_written else "doubted")

    def begin(self, writes: Sequence[DocumentWrite]) -> None:
        """First phase: say what is about to change, before the store is touched."""
        with self._write() as connection:
            self._put_documents(connection, writes, state="pending")
            self._put_chunks(connection, writes)
            for w in writes:
                # In flight too: a crash leaves it at either position.
                for chunk_id, position in w.move.items():
                    connection.execute(
                        update(chunks)
                        .where(*self._these([chunk_id]))
                        .values(position=position, state="moving")
                    )
            retired = [id_ for w in writes for id_ in w.retire]
            self._set_state(connection, retired, "retiring")

    def written(self, writes: Sequence[DocumentWrite]) -> None:
        """Between the phases: what is new is confirmed, and nothing old has gone yet."""
        with self._write() as connection:
            self._set_present(connection, writes)

    def confirm(self, writes: Sequence[DocumentWrite]) -> None:
        """Second phase: the store has confirmed; make it so."""
        with self._write() as connection:
            self._set_present(connection, writes)
            for ids in batched([id_ for w in writes for id_ in w.retire], _SLICE):
                self._bury(connection, ids)
            for gone, change in (
                (False, update(documents).values(state="indexed")),
                (True, delete(documents)),
            ):
                for ids in batched([w.ref.id for w in writes if w.gone is gone], _SLICE):
                    connection.execute(
                        change.where(
                            documents.c.collection == self._collection,
                            documents.c.document_id.in_(ids),
                        )
                    )

    def settle(self, document_id: str, *, held: Mapping[str, int], gone: Sequence[str]) -> None:
        """End what a crash left in flight of a document: these ids are in the store, and where."""
        columns = chunks.c
        with self._write() as connection:
            for chunk_id, position in held.items():
                connection.execute(
                    update(chunks)
                    .where(*self._these([chunk_id]))
                    .values(position=position, state="present")
                )
            for ids in batched(gone, _SLICE):
                self._bury(connection, ids)
            left = connection.scalars(
                select(columns.content_hash)
                .where(columns.collection == self._collection, columns.document_id == document_id)
                .order_by(columns.position, columns.chunk_id)
            )
            connection.execute(
                update(documents)
                .where(
                    documents.c.collection == self._collection,
                    documents.c.document_id == document_id,
                )
                .values(content_hash=content_hash_of_document(list(left)))
            )

    def fail(self, failures: Sequence[tuple[Ref, str]]) -> None:
        """Record documents that could not be indexed. What they had stays, and stays served."""
        rows = [
            self._document(ref, state="failed") | {"error": reason, "attempts": 1}
            for ref, reason in failures
        ]
        with self._write() as connection:
            upsert(
                connection,
                documents,
                rows,
                overwrite=("version", "state", "error", "updated_at"),
                add=("attempts",),
            )

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with write(self._engine) as connection:
            if self._lease is not None:
                self._lease.check(connection)
            yield connection

    def _mine(self, table: Table) -> list[ColumnElement[bool]]:
        conditions = [table.c.collection == self._collection]
        if self._partition.of > 1:
            conditions.append(table.c.bucket % self._partition.of == self._partition.number)
        return conditions

    def _these(self, chunk_ids: Sequence[str]) -> list[ColumnElement[bool]]:
        return [chunks.c.collection == self._collection, chunks.c.chunk_id.in_(chunk_ids)]

    def _set_present(self, connection: Connection, writes: Sequence[DocumentWrite]) -> None:
        there = [c.id for w in writes for c in w.add] + [id_ for w in writes for id_ in w.move]
        self._set_state(connection, there, "present")

    def _set_state(
        self, connection: Connection, chunk_ids: Sequence[str], state: ChunkState
    ) -> None:
        for ids in batched(chunk_ids, _SLICE):
            connection.execute(update(chunks).where(*self._these(ids)).values(state=state))

    def _document(self, ref: Ref, *, state: DocumentState) -> dict[str, Any]:
        return {
            "collection": self._collection,
            "document_id": ref.id,
            "version": ref.version,
            "content_hash": "",
            "state": state,
            "bucket": bucket_of(ref.id),
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

    def _put_chunks(self, connection: Connection, writes: Sequence[DocumentWrite]) -> None:
        rows = [
            {
                "collection": self._collection,
                "chunk_id": chunk.id,
                "document_id": chunk.document_id,
                "position": chunk.position,
                "content_hash": chunk.content_hash,
                "text_hash": text_hash_of(chunk.text),
                "state": "writing",
                "bucket": bucket_of(chunk.document_id),
            }
            for w in writes
            for chunk in w.add
        ]
        # All that an id stands for, too: somebody may have edited the row.
        columns = ("document_id", "position", "content_hash", "text_hash", "state", "bucket")
        upsert(connection, chunks, rows, overwrite=columns)

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


def text_hash_of(text: str) -> str:
    """BLAKE2b of a text, 128 bits in hex: what equal texts are found by."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def content_hash_of_document(chunk_hashes: Sequence[str]) -> str:
    """SHA-256 over the content hashes of a document's chunks, in their order."""
    return hashlib.sha256("".join(chunk_hashes).encode()).hexdigest()
