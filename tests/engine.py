"""What the tests of indexing share, small and deterministic, and the proof that it is so.

Belongs here: an embedder whose vectors are hashes, sources in memory, a store that fails where it
is told to, and the one assertion everything hangs on: the store holds what the source holds.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Engine, select

from agent_pipelines.health.evaluate import evaluate
from agent_pipelines.health.signal import State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing import extraction, generations
from agent_pipelines.indexing.chunking import Chunk, Chunker, ChunkerSpec
from agent_pipelines.indexing.embedding import EmbedderIdentity, Vectors
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.partition import WHOLE, Partition
from agent_pipelines.indexing.sources import Document, DocumentError, Ref, SourceError
from agent_pipelines.indexing.store import Stored, VectorStore
from agent_pipelines.indexing.sync import SyncReport, sync
from agent_pipelines.local.models import packaged_embedder
from agent_pipelines.progress import LogProgress
from agent_pipelines.state.tables import tombstones

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DIMENSION = 8
QUIET = LogProgress(lambda _: None)


class HashEmbedder:
    """Unit vectors made of a text's SHA-256, with a real model's tokenizer."""

    pack_tokens = 512

    def __init__(self, name: str = "hash", dimension: int = DIMENSION) -> None:
        self.identity = EmbedderIdentity(name, "0" * 64, dimension, 256, normalized=True)
        self.texts: list[str] = []
        """Everything it was asked to embed, in order."""

    def tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(packaged_embedder() / "tokenizer.json"))

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        return np.array([self.vector(text) for text in texts], np.float32)

    def vector(self, text: str) -> Vectors:
        digest = hashlib.sha256(text.encode()).digest()
        raw = np.frombuffer(digest, np.uint8)[: self.identity.dimension].astype(np.float32) + 1
        unit: Vectors = raw / np.linalg.norm(raw)
        return unit


class MemorySource:
    """Documents in a dict, as Markdown; None is a document that cannot be read."""

    def __init__(self, texts: dict[str, str | None] | None = None) -> None:
        self.texts: dict[str, str | None] = dict(texts or {})
        self.incomplete: str | None = None
        self.loaded: list[str] = []
        """Ids of every document that was read, in order."""

    def check(self) -> None:
        pass

    def list(self) -> Iterator[Ref]:
        for id_, text in self.texts.items():
            yield Ref(id_, hashlib.sha256(repr(text).encode()).hexdigest()[:16])
        if self.incomplete:
            raise SourceError(f"the listing is incomplete: {self.incomplete}")

    def load(self, ref: Ref) -> Document:
        self.loaded.append(ref.id)
        text = self.texts[ref.id]
        if text is None:
            raise DocumentError("cannot be read")
        text = extraction.checked(text)
        title = extraction.title_of(text, ref.id)
        return Document(ref.id, ref.version, text, title, f"memory://{ref.id}", "markdown")


class Crash(Exception):
    """What a store raises in place of a process that dies; no code of ours catches it."""


@dataclass
class TrippingStore:
    """A store that calls `trip` before or after the nth call of one method, and is else as is."""

    store: VectorStore
    trip: Callable[[], None]
    method: str
    call: int = 1
    after: bool = False
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            tripped = name == self.method and self.calls.count(name) == self.call
            if tripped and not self.after:
                self.trip()
            result = real(*args, **kwargs)
            if tripped and self.after:
                self.trip()
            return result

        return call


def section(title: str, *, words: int = 90) -> str:
    """A Markdown section long enough to be a chunk of its own."""
    return f"## {title}\n\n" + " ".join(f"{title}{n % 10}" for n in range(words // 3)) + "\n\n"


def document(title: str, *sections: str) -> str:
    """A Markdown document of a title and sections."""
    return f"# {title}\n\n" + "".join(section(name) for name in sections)


def make_index(
    name: str,
    source: Any,
    store: Any,
    engine: Engine,
    *,
    embedder: Any = None,
    tokens: int = 128,
    max_delete_share: float = 0.2,
    max_staleness_seconds: float = 600,
    **more: Any,
) -> Index:
    return Index(
        name=name,
        source=source,
        chunker=ChunkerSpec(tokens, 0),
        max_delete_share=max_delete_share,
        max_staleness_seconds=max_staleness_seconds,
        embedder=embedder or HashEmbedder(),
        store=store,
        engine=engine,
        **more,
    )


@contextmanager
def named_index(store: Any, engine: Engine, source: Any, **more: Any) -> Iterator[Index]:
    """An index under a name of its own; its collections and alias are dropped afterwards."""
    index = make_index(f"t{uuid.uuid4().hex[:12]}", source, store, engine, **more)
    try:
        yield index
    finally:
        raw(store).alias.delete(alias_name=index.alias)
        for collection in store.collections():
            if collection.startswith(f"{index.alias}__"):
                store.drop_collection(collection)


def raw(store: Any) -> Any:
    """Weaviate's own client: what a stranger's hand has."""
    return store._client


def run_sync(
    index: Index,
    *,
    accept_deletions: bool = False,
    verify: bool = False,
    partition: Partition = WHOLE,
) -> SyncReport:
    return sync(
        index,
        accept_deletions=accept_deletions,
        verify=verify,
        progress=QUIET,
        partition=partition,
    )


def collection_of(index: Index) -> str:
    """The generation under the index's spec."""
    found = generations.under(index.engine, index.name, index.spec)
    assert found is not None
    return found.collection


def failures(index: Index) -> dict[str, str]:
    """Why each document that could not be indexed could not."""
    return index.ledger(collection_of(index)).failures()


def stored_in(index: Index, collection: str | None = None) -> dict[str, Stored]:
    """Every object of a generation, by id; fails on an id that is there twice."""
    found = list(index.store.scan(collection or collection_of(index)))
    by_id = {stored.chunk.id: stored for stored in found}
    assert len(by_id) == len(found), "an id is in the store twice"
    return by_id


def wanted_chunks(index: Index, source: MemorySource) -> dict[str, Chunk]:
    """What a store in step with these documents holds, computed from nothing but the source."""
    chunker = Chunker(index.chunker, index.embedder.tokenizer())
    fingerprint = index.spec.fingerprint
    return {
        chunk.id: chunk
        for ref in source.list()
        if source.texts[ref.id] is not None
        for chunk in chunker.chunks(source.load(ref), index=index.name, fingerprint=fingerprint)
    }


def assert_exact(index: Index, source: MemorySource) -> None:
    """The store holds exactly what the source holds, and the ledger says so."""
    wanted, stored = wanted_chunks(index, source), stored_in(index)
    assert {id_: s.chunk for id_, s in stored.items()} == wanted
    assert {s.fingerprint for s in stored.values()} <= {index.spec.fingerprint}
    for found in stored.values():
        assert found.vector is not None
        expected = HashEmbedder(dimension=index.embedder.identity.dimension).vector(
            found.chunk.text
        )
        np.testing.assert_allclose(found.vector, expected, atol=1e-6)
    assert index.store.count(collection_of(index)) == len(wanted)
    ledger = index.ledger(collection_of(index))
    assert set(ledger.present_ids()) == set(wanted)
    counts = ledger.counts()
    assert (counts.pending, counts.in_flight) == (0, 0)


def states(index: Index, *, committed: bool = True) -> dict[str, State]:
    """The state of every signal, by name."""
    with View(index, committed=committed) as view:
        readings = evaluate(view, catalogue())
    return {signal.name: reading.state for signal, reading in readings.items()}


def assert_healthy(index: Index) -> None:
    """Every signal is true: not false, and not unable to tell."""
    assert states(index) == {signal.name: State.TRUE for signal in catalogue()}


def tombstones_of(index: Index) -> dict[str, str]:
    """Document by retired chunk id."""
    query = select(tombstones).where(tombstones.c.index_name == index.name)
    with index.engine.connect() as connection:
        return {row.chunk_id: row.document_id for row in connection.execute(query)}
