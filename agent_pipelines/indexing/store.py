"""The vector store, as the engine sees it.

Belongs here: the protocol and what passes through it. Does not belong here: Weaviate
(`resources/weaviate.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.indexing.partition import WHOLE, Partition


@dataclass(frozen=True)
class Stored:
    """A chunk as the store holds it. `vector` is None where there is none (a fault)."""

    chunk: Chunk
    fingerprint: str
    bucket: int
    """By which partitions are counted."""
    vector: Vectors | None


@dataclass(frozen=True)
class Deviation:
    """Where a collection is not as it was created."""

    what: str
    observed: str
    expected: str


@dataclass(frozen=True)
class Replication:
    """On which nodes a collection's objects are kept."""

    collection: str
    factor: int
    """How many nodes keep each object."""
    nodes: tuple[str, ...] = ()
    """Those that keep any and can be asked; empty where the factor is 1."""
    silent: int = 0
    """How many replicas, of all its shards, cannot be asked now."""


Consistency = Literal["one", "quorum", "all"]


class CollectionSettings(BaseModel):
    """How a collection is kept. A change takes effect with the next generation, but for
    `consistency`, which takes effect at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vector_index: Literal["hnsw", "flat"] = Field(
        default="hnsw",
        description="hnsw: fast and approximate. flat: exact, for an index of some thousands.",
    )
    quantisation: Literal["none", "rq", "pq", "sq", "bq"] = Field(
        default="none",
        description="Smaller vectors in memory, at some loss of recall: rotational (rq), product "
        "(pq), scalar (sq) or binary (bq) quantisation. flat takes none, rq or bq.",
    )
    replication_factor: int = Field(
        default=1, ge=1, description="On how many nodes of a Weaviate cluster each object is kept."
    )
    consistency: Consistency = Field(
        default="quorum",
        description="How many replicas confirm a write and answer a read, at least.",
    )


@dataclass(frozen=True)
class Filter:
    """Search only chunks whose `field` is one of `values`.

    A field is `document_id`, `uri`, `title` or a key of the documents' metadata. A `*` in a value
    stands for anything.
    """

    field: str
    values: tuple[str, ...]


class VectorStore(Protocol):
    """One collection per generation, one alias per index.

    Every method raises `UnavailableError` when the store does not answer.
    """

    def collections(self) -> Sequence[str]: ...

    def create_collection(
        self, collection: str, description: str, settings: CollectionSettings
    ) -> None: ...

    def drop_collection(self, collection: str) -> None: ...

    def deviations(
        self, collection: str, settings: CollectionSettings | None
    ) -> Sequence[Deviation]:
        """Where a collection's schema is not what `create_collection` makes.

        Without `settings`, what they decide is not looked at.
        """
        ...

    def read_only(self, collection: str) -> Sequence[str]:
        """Shards of a collection that take no writes."""
        ...

    def note(self, key: str) -> str | None:
        """What was noted last under this key, apart from any collection of an index, or None."""
        ...

    def write_note(self, key: str, value: str, settings: CollectionSettings) -> None:
        """Note a value; within seconds, or not at all.

        Raises:
            StoreError: the store refuses it.
        """
        ...

    def replication(self, collection: str) -> Replication:
        """How a collection is replicated, and which of its nodes can be asked.

        Raises:
            StoreError: there is no such collection.
        """
        ...

    def copies(
        self, replication: Replication, chunk_ids: Sequence[str]
    ) -> Mapping[str, Mapping[str, Stored | None]]:
        """What each replica holds of these objects: by id, by node, None where it holds none.

        Of each as many copies as the factor says.
        """
        ...

    def purge(self, collection: str, chunk_ids: Sequence[str]) -> None:
        """Delete from every replica, also where most of them do not have it; `delete` may miss it.

        Raises:
            StoreError: not as many replicas confirmed it as must confirm a write.
        """
        ...

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

    def count(self, collection: str, partition: Partition = WHOLE) -> int:
        """Exact number of objects."""
        ...

    def scan(self, collection: str) -> Iterator[Stored]:
        """Every object."""
        ...

    def get(self, collection: str, chunk_ids: Sequence[str]) -> Mapping[str, Stored]:
        """The objects with these ids that exist, with their vectors."""
        ...

    def unfindable(
        self, collection: str, stored: Sequence[Stored], *, among: int = 20
    ) -> Sequence[str]:
        """Ids of those that a search for their own vector does not find among that many hits."""
        ...

    def search(
        self,
        alias: str,
        query: str,
        vector: Vectors,
        *,
        limit: int,
        filters: Sequence[Filter] = (),
        alpha: float = 0.5,
    ) -> Sequence[tuple[Chunk, float]]:
        """Hybrid search, best first, with scores.

        `alpha` weighs vectors (1) against words, BM25 (0). All filters must hold.
        """
        ...


class StoreError(Exception):
    """The store answered, but did not do what was asked."""
