"""Ledger against store: what a crash, a late writer or a stranger's hand left different.

Belongs here: looking at every object of a generation, once, in bounded memory. Does not belong
here: judging whether an index is true (`health/`), or putting it right (`sync.py`).
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from agent_pipelines.indexing.batches import batched
from agent_pipelines.indexing.chunking import content_hash_of
from agent_pipelines.indexing.embedding import flaw
from agent_pipelines.indexing.generations import Generation
from agent_pipelines.indexing.ledger import Entry, Ledger
from agent_pipelines.indexing.partition import WHOLE, Partition, bucket_of
from agent_pipelines.indexing.store import Stored, VectorStore

Fault = Literal["missing", "orphan", "altered", "foreign spec", "bad vector", "not found"]

#: What is wrong with a chunk that the ledger says is there.
WRONG: tuple[Fault, ...] = ("missing", "altered", "foreign spec", "bad vector")

#: Objects that are compared together.
_PAGE = 500


def in_step_by_count(
    store: VectorStore, collection: str, ledger: Ledger, partition: Partition = WHOLE
) -> bool:
    """The cheap question: did the last sync finish, and are there as many objects as it left?"""
    counts = ledger.counts()
    finished = counts.pending == 0 and counts.in_flight == 0
    return finished and store.count(collection, partition) == counts.chunks


class Census:
    """Every object of a generation and its vector, compared with the ledger; costs one scan.

    Ids are kept in a temporary database, so that memory does not grow with the index. What is in
    flight is not counted as there, and its object is no orphan.
    """

    def __init__(
        self,
        store: VectorStore,
        generation: Generation,
        ledger: Ledger,
        partition: Partition = WHOLE,
        *,
        search: bool = False,
    ) -> None:
        """With `search`, every object is also searched for by its vector; costs milliseconds each.

        An index of vectors can lose what the store still has.
        """
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        run = self._database.execute
        run("PRAGMA journal_mode = OFF")
        run("CREATE TABLE present (id TEXT PRIMARY KEY) WITHOUT ROWID")
        run("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
        run("CREATE TABLE faults (fault TEXT, id TEXT, detail TEXT)")
        run("BEGIN")
        self._insert("present", ((id_,) for id_ in ledger.present_ids()))
        self.objects = 0
        objects = store.scan(generation.collection)
        mine = (stored for stored in objects if partition.has(stored.chunk.document_id))
        for page in batched(mine, _PAGE):
            self.objects += len(page)
            entries = ledger.entries([stored.chunk.id for stored in page])
            self._insert("seen", ((stored.chunk.id,) for stored in page))
            self._insert("faults", _faults(page, entries, generation))
            if search:
                sound = [s for s in page if s.chunk.id in entries and is_sound(s, generation)]
                lost = store.unfindable(generation.collection, sound)
                self._insert("faults", (("not found", id_, "") for id_ in lost))
        run(
            "INSERT INTO faults SELECT 'missing', id, '' FROM present "
            "WHERE id NOT IN (SELECT id FROM seen)"
        )
        run("COMMIT")

    def __enter__(self) -> "Census":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the temporary database go."""
        self._database.close()

    def count(self, *faults: Fault) -> int:
        """How many objects have one of these faults."""
        query = f"SELECT count(DISTINCT id) FROM faults WHERE fault IN ({_marks(faults)})"
        return int(self._database.execute(query, faults).fetchone()[0])

    def ids(self, *faults: Fault) -> Iterator[str]:
        """Ids of the objects with one of these faults, in order."""
        query = f"SELECT DISTINCT id FROM faults WHERE fault IN ({_marks(faults)}) ORDER BY id"
        return (id_ for (id_,) in self._database.execute(query, faults))

    def details(self, fault: Fault, *, limit: int) -> Sequence[tuple[str, str]]:
        """The first ids with this fault, and what is wrong with each."""
        query = "SELECT id, detail FROM faults WHERE fault = ? ORDER BY id LIMIT ?"
        return self._database.execute(query, (fault, limit)).fetchall()

    def _insert(self, table: str, rows: Iterable[tuple[str, ...]]) -> None:
        columns = 3 if table == "faults" else 1
        # An id that the store returns twice is seen once, and makes more objects than entries.
        query = f"INSERT OR IGNORE INTO {table} VALUES ({_marks(range(columns))})"
        self._database.executemany(query, rows)


def altered(stored: Stored, entry: Entry) -> bool:
    """Whether what a reader is shown of a chunk, or is counted by, is not what the ledger has."""
    chunk = stored.chunk
    return (
        chunk.document_id != entry.document_id
        or (chunk.position != entry.position and entry.state != "moving")
        or chunk.content_hash != entry.content_hash
        or stored.bucket != bucket_of(chunk.document_id)
        or is_forged(stored)
    )


def is_forged(stored: Stored) -> bool:
    """Whether what a chunk shows is not what its hash says."""
    chunk = stored.chunk
    shown = content_hash_of(chunk.text, chunk.title, chunk.uri, chunk.metadata)
    return shown != chunk.content_hash


def is_sound(stored: Stored, generation: Generation) -> bool:
    """Whether a chunk was built under the generation's spec, says what it claims, can be found."""
    return (
        stored.fingerprint == generation.fingerprint
        and stored.vector is not None
        and flaw(stored.vector, generation.embedder) is None
        and not is_forged(stored)
    )


def _faults(
    page: Sequence[Stored], entries: dict[str, Entry], generation: Generation
) -> Iterator[tuple[Fault, str, str]]:
    for stored in page:
        id_ = stored.chunk.id
        entry = entries.get(id_)
        if entry is None:
            yield "orphan", id_, ""
            continue
        if not entry.is_there:
            continue
        if altered(stored, entry):
            yield "altered", id_, ""
        if stored.fingerprint != generation.fingerprint:
            yield "foreign spec", id_, ""
        wrong = "is missing" if stored.vector is None else flaw(stored.vector, generation.embedder)
        if wrong:
            yield "bad vector", id_, wrong


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" for _ in values)
