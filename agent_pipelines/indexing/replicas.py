"""Replicas against each other: which of an object's copies is not as it should be.

Belongs here: telling the odd ones. Does not belong here: reading them (the store) or bringing them
together (`sync.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from agent_pipelines.indexing.ledger import Entry, Ledger
from agent_pipelines.indexing.reconcile import altered
from agent_pipelines.indexing.store import Replication, Stored, VectorStore


def differing(
    store: VectorStore, replication: Replication, ledger: Ledger, chunk_ids: Sequence[str]
) -> dict[str, dict[str, str]]:
    """What is wrong with each odd copy, by id and node; without objects whose copies are equal.

    Raises:
        UnavailableError: a replica does not answer.
    """
    copies, entries = store.copies(replication, chunk_ids), ledger.entries(chunk_ids)
    return {
        id_: odd
        for id_, by_node in copies.items()
        if (odd := odd_copies(by_node, entries.get(id_)))
    }


def odd_copies(copies: Mapping[str, Stored | None], entry: Entry | None) -> dict[str, str]:
    """What is wrong with each copy that is not as it should be; empty where all are equal.

    Right is what most hold of those that are as the ledger says; where it has no such chunk, none
    is. That all are wrong alike is not for them to tell.

    Args:
        copies: by node; None where it holds none.
        entry: what the ledger has of the object.
    """
    said = {node: _said(copy) if copy else None for node, copy in copies.items()}
    if len(set(said.values())) == 1:
        return {}
    if entry is None:
        return {node: "still there" for node, copy in copies.items() if copy}
    held = {node: copy for node, copy in copies.items() if copy}
    sound = [said[node] for node, copy in held.items() if not altered(copy, entry)]
    ((right, _),) = Counter(sound or [said[node] for node in held]).most_common(1)
    return {node: _fault(copy, entry) for node, copy in copies.items() if said[node] != right}


def _said(copy: Stored) -> tuple[object, ...]:
    """Everything that it holds, to be compared."""
    chunk = copy.chunk
    return (
        *(chunk.document_id, chunk.position, chunk.content_hash, chunk.title, chunk.uri),
        *(chunk.text, tuple(sorted(chunk.metadata.items())), copy.fingerprint, copy.bucket),
        None if copy.vector is None else copy.vector.tobytes(),
    )


def _fault(copy: Stored | None, entry: Entry) -> str:
    if copy is None:
        return "missing"
    return "other content" if altered(copy, entry) else "another vector or spec"
