"""Carrying out document writes, in an order that no crash can turn into a gap or a lie.

Belongs here: ledger says what is coming → new chunks written and confirmed → ledger says so → old
ones deleted and confirmed → ledger says it is done. Does not belong here: what to write
(`sync.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import DocumentWrite, Ledger


@dataclass
class Applied:
    """What has been confirmed so far."""

    written: int = 0
    retired: int = 0


class Applier:
    """Applies batches of writes to one generation."""

    def __init__(self, index: Index, collection: str, ledger: Ledger) -> None:
        self._index = index
        self._collection = collection
        self._ledger = ledger
        self.applied = Applied()

    def apply(self, writes: Sequence[DocumentWrite], vectors: Vectors) -> None:
        """Bring the store and the ledger to what `writes` say.

        Args:
            writes: documents, each with the chunks that are to be added.
            vectors: of these chunks, in their order; shape (chunks, dimension).

        Raises:
            StoreError: the store did not confirm; the documents stay pending.
            LeaseLostError: another writer has taken over; nothing of this was recorded.
        """
        if not writes:
            return
        store = self._index.store
        add = [chunk for w in writes for chunk in w.add]
        move = {id_: position for w in writes for id_, position in w.move.items()}
        retire = [id_ for w in writes for id_ in w.retire]
        half_written = [id_ for w in writes for id_ in w.half_written]
        self._ledger.begin(writes)
        if half_written:
            # The store may have the object and not have it in its vector index; writing the same
            # again would change nothing. Nobody needs them yet: what they replace is still there.
            store.delete(self._collection, half_written)
        if add:
            store.write(self._collection, add, vectors, self._index.spec.fingerprint)
        if move:
            store.move(self._collection, move)
        if retire:
            # Known to be there before the old ones go: a crash after that must not doubt them.
            self._ledger.written(writes)
            store.delete(self._collection, retire)
        self._ledger.confirm(writes)
        self.applied.written += len(add)
        self.applied.retired += len(retire)
