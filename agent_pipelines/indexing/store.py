"""The vector store, as the engine sees it.

Belongs here: the protocol and what passes through it. Does not belong here: Weaviate
(`resources/weaviate.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.embedding import Vectors


@dataclass(frozen=True)
class Stored:
    """A chunk as the store holds it. `vector` is None where there is none (a fault)."""

    chunk: Chunk
    fingerprint: str
    vector: Vectors | None


class VectorStore(Protocol):
    """One collection per generation, one alias per index.

    Every method raises `UnavailableError` when the store does not answer.
    """

    def collections(self) -> Sequence[str]: ...

    def create_collection(self, collection: str, description: str) -> None: ...

    def drop_collection(self, collection: str) -> None: ...

    def alias_target(self, alias: str) -> str | None:
        """The collection an alias points to, or None where there is no such alias."""
        ...

    def point_alias(self, alias: str, collection: str) -> None:
        """Create or atomically swap the alias, and verify that it points there."""
        ...

    def write(
        self, collection: str, chunks: Sequence[Chunk], vectors: Vectors, fingerprint: str
    ) -> None:
        """Insert or replace; returns only when every id is confirmed.

        Raises:
            StoreError: some id was not confirmed; some may be stored all the same.
        """
        ...

    def move(self, collection: str, positions: Mapping[str, int]) -> None:
        """Give stored chunks a new position; id and vector stay."""
        ...

    def delete(self, collection: str, chunk_ids: Sequence[str]) -> None:
        """Delete, and confirm that none of the ids is left."""
        ...

    def count(self, collection: str) -> int:
        """Exact number of objects."""
        ...

    def scan(self, collection: str, *, vectors: bool) -> Iterator[Stored]:
        """Every object, with or without its vector."""
        ...

    def get(self, collection: str, chunk_ids: Sequence[str]) -> Mapping[str, Stored]:
        """The objects with these ids that exist, with their vectors."""
        ...

    def search(
        self, alias: str, query: str, vector: Vectors, *, limit: int
    ) -> Sequence[tuple[Chunk, float]]:
        """Hybrid search (BM25 and vector), best first, with scores."""
        ...


class StoreError(Exception):
    """The store answered, but did not do what was asked."""
