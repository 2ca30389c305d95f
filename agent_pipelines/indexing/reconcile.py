"""Ledger against store: what a crash, a late writer or a stranger's hand left different.

Belongs here: finding chunks that are missing, altered or nobody's, and handing them to the sync.
Does not belong here: judging whether an index is true (`health/`).
"""

from dataclasses import dataclass

from agent_pipelines.indexing.chunking import content_hash_of
from agent_pipelines.indexing.embedding import flaw
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import Entry, Ledger
from agent_pipelines.indexing.store import Stored, VectorStore


@dataclass(frozen=True)
class Difference:
    """What the store has and the ledger does not, and the other way round."""

    orphans: list[str]
    """Ids in the store that the ledger does not know."""
    doubtful: list[str]
    """Ids that the ledger says are there, but are missing or not what they should be."""


def in_step_by_count(store: VectorStore, collection: str, ledger: Ledger) -> bool:
    """The cheap question: did the last sync finish, and are there as many objects as it left?"""
    counts = ledger.counts()
    finished = counts.pending == 0 and counts.in_flight == 0
    return finished and store.count(collection) == counts.chunks


def compare(index: Index, collection: str, ledger: Ledger) -> Difference:
    """The exact question, over every object in the store and its vector; costs one scan."""
    entries = ledger.entries()
    in_flight = ledger.in_flight_ids()
    orphans = []
    sound = set()
    for stored in index.store.scan(collection, vectors=True):
        id_ = stored.chunk.id
        if id_ not in entries:
            if id_ not in in_flight:
                orphans.append(id_)
        elif not altered(stored, entries[id_]) and is_sound(stored, index):
            sound.add(id_)
    return Difference(orphans, doubtful=[id_ for id_ in entries if id_ not in sound])


def altered(stored: Stored, entry: Entry) -> bool:
    """Whether anything a reader is shown of a chunk is not what the ledger has for it."""
    chunk = stored.chunk
    shown = Entry(chunk.document_id, chunk.position, chunk.content_hash)
    return shown != entry or content_hash_of(chunk.text, chunk.title, chunk.uri) != (
        entry.content_hash
    )


def is_sound(stored: Stored, index: Index) -> bool:
    """Whether a chunk was built under the index's spec and can be found by its vector."""
    return (
        stored.fingerprint == index.spec.fingerprint
        and stored.vector is not None
        and flaw(stored.vector, index.embedder.identity) is None
    )
