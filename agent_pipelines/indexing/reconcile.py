"""Ledger against store: what a crash, a late writer or a stranger's hand left different.

Belongs here: finding chunks that are missing, altered or nobody's, and handing them to the sync.
Does not belong here: judging whether an index is true (`health/`).
"""

from dataclasses import dataclass

from agent_pipelines.indexing.chunking import content_hash_of
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.indexing.store import VectorStore


@dataclass(frozen=True)
class Difference:
    """What the store has and the ledger does not, and the other way round."""

    orphans: list[str]
    """Ids in the store that the ledger does not know."""
    doubtful: list[str]
    """Ids that the ledger says are there, but are missing or not what they should be."""


def in_step_by_count(store: VectorStore, collection: str, ledger: Ledger) -> bool:
    """The cheap question: are there as many objects as there should be, and none in flight?"""
    counts = ledger.counts()
    return counts.in_flight == 0 and store.count(collection) == counts.chunks


def compare(store: VectorStore, collection: str, fingerprint: str, ledger: Ledger) -> Difference:
    """The exact question, over every object in the store; costs one scan without vectors."""
    hashes = ledger.chunk_hashes()
    in_flight = ledger.in_flight_ids()
    orphans = []
    sound = set()
    for stored in store.scan(collection, vectors=False):
        chunk = stored.chunk
        if chunk.id not in hashes:
            if chunk.id not in in_flight:
                orphans.append(chunk.id)
        elif (
            hashes[chunk.id] == content_hash_of(chunk.text, chunk.title, chunk.uri)
            and stored.fingerprint == fingerprint
        ):
            sound.add(chunk.id)
    return Difference(orphans, doubtful=[id_ for id_ in hashes if id_ not in sound])
