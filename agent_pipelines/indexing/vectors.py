"""The vectors of chunks: computed once for equal text, and not at all where the store has them.

Belongs here: where a vector comes from. Does not belong here: computing one (`embedding.py`).
"""

from collections.abc import Sequence
from time import monotonic

import numpy as np

from agent_pipelines.indexing.batches import batched
from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.embedding import EmbeddingError, Vectors, embed_checked
from agent_pipelines.indexing.generations import Generation, remember_golden
from agent_pipelines.indexing.golden import MIN_COSINE, cosine, golden_vector
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import Ledger, text_hash_of
from agent_pipelines.indexing.reconcile import is_sound
from agent_pipelines.state.leases import Lease

#: Vectors remembered until the store surely has them: more than are in flight at once.
_REMEMBERED = 4_096

#: Texts per call of the embedder, which sorts them by length.
_TEXTS = 512


class VectorSupply:
    """Vectors for the chunks that one sync adds to one generation."""

    def __init__(self, index: Index, generation: Generation, ledger: Ledger, lease: Lease) -> None:
        self._index = index
        self._lease = lease
        self._generation = generation
        self._ledger = ledger
        self._remembered: dict[str, Vectors] = {}
        self._golden_checked = False
        self.copies = True
        """Whether a vector that the store has is taken from there."""
        self.embedded = 0
        """Texts the model was called for."""
        self.reused = 0
        """Texts whose vector the store had."""
        self.seconds = 0.0
        """Spent in the model."""

    def of(self, chunks: Sequence[Chunk]) -> Vectors:
        """One vector per chunk: shape (chunks, dimension).

        Raises:
            EmbeddingError: the model returned a bad vector, or is not the one this generation was
                built with.
            StoreError, UnavailableError: the store could not be asked for what it has.
            LeaseLostError: another writer has taken over.
        """
        texts = {text_hash_of(chunk.text): chunk.text for chunk in chunks}
        found = {hash_: v for hash_ in texts if (v := self._remembered.get(hash_)) is not None}
        if self.copies:
            found |= self._stored({h: text for h, text in texts.items() if h not in found})
        missing = {h: text for h, text in texts.items() if h not in found}
        for some in batched(missing, _TEXTS):
            # One document may keep the model busy for longer than the lease lasts.
            self._lease.renew()
            found.update(zip(some, self._embed([missing[h] for h in some]), strict=True))
        self._remembered = dict([*self._remembered.items(), *found.items()][-_REMEMBERED:])
        dimension = self._generation.embedder.dimension
        vectors = [found[text_hash_of(chunk.text)] for chunk in chunks]
        return np.array(vectors, np.float32).reshape(len(chunks), dimension)

    def _stored(self, texts: dict[str, str]) -> dict[str, Vectors]:
        """Vectors of texts that are in the store already, be it in another document."""
        holders = self._ledger.with_text(list(texts))
        stored = self._index.store.get(self._generation.collection, list(holders.values()))
        found = {}
        for hash_, id_ in holders.items():
            held = stored.get(id_)
            # Looked at, not trusted: a flaw must not be copied.
            if held and held.chunk.text == texts[hash_] and is_sound(held, self._generation):
                assert held.vector is not None
                found[hash_] = held.vector
        self.reused += len(found)
        return found

    def _embed(self, texts: Sequence[str]) -> Vectors:
        self._check_golden()
        started = monotonic()
        vectors = embed_checked(self._index.embedder, texts)
        self.seconds += monotonic() - started
        self.embedded += len(texts)
        return vectors

    def _check_golden(self) -> None:
        """See, before anything else is embedded, that this backend may add to this generation."""
        if self._golden_checked:
            return
        now = golden_vector(self._index.embedder)
        before = self._generation.golden_vector
        if before is None:
            remember_golden(self._index.engine, self._generation.collection, now.tolist())
        elif (likeness := cosine(np.asarray(before, np.float32), now)) < MIN_COSINE:
            raise EmbeddingError(
                f"the embedder {self._generation.embedder.name} gives other vectors than those in "
                f"{self._generation.collection}: the cosine of its golden vector is "
                f"{likeness:.5f}, less than {MIN_COSINE}. Its backend or its weights have changed"
            )
        self._golden_checked = True
