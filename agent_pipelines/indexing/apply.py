"""Carrying out document writes, in an order that no crash can turn into a gap or a lie.

Belongs here: ledger says what is coming → new chunks written and confirmed → old ones deleted and
confirmed → ledger says it is done. Does not belong here: what to write (`sync.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.embedding import Vectors, embed_checked
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import DocumentWrite, Ledger

#: Vectors remembered by text, so that equal text is embedded once (77 MB at 384 dimensions).
_REMEMBERED = 50_000


@dataclass
class Applied:
    """What has been confirmed so far."""

    written: int = 0
    embedded: int = 0
    retired: int = 0
    seconds_embedding: float = 0.0


class Applier:
    """Applies batches of writes to one generation."""

    def __init__(self, index: Index, collection: str, ledger: Ledger) -> None:
        self._index = index
        self._collection = collection
        self._ledger = ledger
        self._remembered: dict[str, Vectors] = {}
        self.applied = Applied()

    def apply(self, writes: Sequence[DocumentWrite]) -> None:
        """Bring the store and the ledger to what `writes` say.

        Raises:
            EmbeddingError: the model returned a bad vector; nothing was touched.
            StoreError: the store did not confirm; the documents stay pending.
        """
        if not writes:
            return
        store = self._index.store
        add = [chunk for w in writes for chunk in w.add]
        retire = [id_ for w in writes for id_ in w.retire]
        vectors = self._embed(add)
        self._ledger.begin(writes)
        if add:
            store.write(self._collection, add, vectors, self._index.spec.fingerprint)
        store.move(self._collection, {id_: p for w in writes for id_, p in w.move.items()})
        if retire:
            store.delete(self._collection, retire)
        self._ledger.confirm(writes)
        self.applied.written += len(add)
        self.applied.retired += len(retire)

    def _embed(self, chunks: Sequence[Chunk]) -> Vectors:
        new = list(dict.fromkeys(c.text for c in chunks if c.text not in self._remembered))
        started = monotonic()
        if new:
            embedded = embed_checked(self._index.embedder, new)
            if len(self._remembered) + len(new) > _REMEMBERED:
                self._remembered = {c.text: v for c in chunks if (v := self._known(c)) is not None}
            self._remembered.update(zip(new, embedded, strict=True))
        self.applied.embedded += len(new)
        self.applied.seconds_embedding += monotonic() - started
        dimension = self._index.embedder.identity.dimension
        return np.array([self._remembered[c.text] for c in chunks], np.float32).reshape(
            len(chunks), dimension
        )

    def _known(self, chunk: Chunk) -> Vectors | None:
        return self._remembered.get(chunk.text)
