"""Reading an index: the one path that agents, the `search` command and the probes share.

Belongs here: query → hits with the snapshot they came from. Does not belong here: how hits reach
a caller (`toolservers/search.py`, `cli.py`) or how the store finds them (`resources/weaviate.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.indexing import changes, generations
from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.embedding import Vectors, embed_checked
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import Snapshot, latest
from agent_pipelines.indexing.store import Filter


@dataclass(frozen=True)
class Hit:
    """One chunk that was found; enough of it to verify a citation later."""

    chunk_id: str
    document_id: str
    content_hash: str
    position: int
    title: str
    uri: str
    text: str
    metadata: Mapping[str, str]
    score: float


@dataclass(frozen=True)
class Doubt:
    """A signal of the index that is not known to be true now."""

    signal: str
    state: Literal["false", "cannot tell"]
    since: datetime | None
    """None where it was never evaluated."""
    reason: str


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and the committed snapshot they were read from."""

    index: str
    sequence: int
    committed_at: datetime
    staleness_seconds: float
    """Age of the oldest source change known not to be live; 0 when none is known."""
    checked_seconds_ago: float
    """Since the source was last listed; of changes since then nobody knows."""
    hits: Sequence[Hit]
    not_true: Sequence[Doubt] = ()
    """Filled in by `health/readers.py`: this room knows of no signals."""


class Searcher(Protocol):
    """What the search tool server needs; implemented by `IndexSearcher` and, with the signals of
    the index in every result, by `health.readers.CheckedSearcher`."""

    def indexes(self) -> Sequence[str]: ...

    def search(
        self,
        index: str,
        query: str,
        *,
        limit: int,
        filters: Sequence[Filter] = (),
        alpha: float = 0.5,
    ) -> SearchResult: ...

    def fetch(self, index: str, chunk_id: str) -> SearchResult:
        """One chunk by id; no hit where it is not in the live generation."""
        ...


class IndexSearcher:
    """Searches committed snapshots through each index's alias."""

    def __init__(self, indexes: Mapping[str, Index]) -> None:
        self._indexes = indexes

    def indexes(self) -> Sequence[str]:
        """Names of the indexes that can be searched."""
        return list(self._indexes)

    def search(
        self,
        index: str,
        query: str,
        *,
        limit: int,
        filters: Sequence[Filter] = (),
        alpha: float = 0.5,
    ) -> SearchResult:
        """Hybrid search, best first.

        Args:
            index: its name.
            query: what to look for, in words.
            limit: how many hits at most.
            filters: all of them must hold of a hit.
            alpha: weight of vectors (1) against words (0).

        Raises:
            UserError: there is no such index, or it was never committed.
            UnavailableError: the store or the state database does not answer, or what is live was
                built by another embedder than this process has.
        """
        found = self._get(index)
        _check_model(found)
        vector = embed_checked(found.embedder, [query])[0]
        return self.search_near(index, query, vector, limit=limit, filters=filters, alpha=alpha)

    def search_near(
        self,
        index: str,
        query: str,
        vector: Vectors,
        *,
        limit: int,
        filters: Sequence[Filter] = (),
        alpha: float = 0.5,
    ) -> SearchResult:
        """The same, where the query's vector, of shape (dimension,), is known."""
        found = self._get(index)
        snapshot = self._snapshot(found)
        pairs = found.store.search(
            found.alias, query, vector, limit=limit, filters=filters, alpha=alpha
        )
        return _result(found, snapshot, [_hit(chunk, score) for chunk, score in pairs])

    def fetch(self, index: str, chunk_id: str) -> SearchResult:
        """One chunk by id; no hit where it is not in the live generation."""
        found = self._get(index)
        snapshot = self._snapshot(found)
        stored = found.store.get(snapshot.collection, [chunk_id]).values()
        return _result(found, snapshot, [_hit(one.chunk, 1.0) for one in stored])

    def _get(self, name: str) -> Index:
        if name not in self._indexes:
            raise UserError(
                f"there is no index {name!r}",
                remedy=f"use one of: {', '.join(self._indexes) or 'none is configured'}",
            )
        return self._indexes[name]

    def _snapshot(self, index: Index) -> Snapshot:
        snapshot = latest(index.engine, index.name)
        if snapshot is None:
            raise UserError(
                f"index {index.name!r} was never committed",
                remedy=f"run: agent-pipelines sync {index.name}",
            )
        return snapshot


def _check_model(index: Index) -> None:
    """A query that another model encodes would find anything: rather nothing, and say so."""
    built = generations.live(index.engine, index.name)
    if built is not None and built.embedder != index.embedder.identity:
        raise UnavailableError(
            f"what is live of index {index.name!r} was built by embedder {built.embedder.name} "
            f"({built.embedder.digest[:10]}), and here queries are encoded by "
            f"{index.embedder.identity.name} ({index.embedder.identity.digest[:10]})",
            remedy="wait for the sync that builds it anew, or restart what still has the embedder "
            "from before",
        )


def read_filters(conditions: Sequence[str]) -> Sequence[Filter]:
    """Filters from `field=value` each; values of the same field are alternatives.

    Raises:
        UserError: one of them is not of that form.
    """
    values: dict[str, list[str]] = {}
    for condition in conditions:
        field, sign, value = condition.partition("=")
        if not (field and sign):
            raise UserError(
                f"{condition!r} is no condition on a document",
                remedy="write it like source=handbook or 'uri=*/runbooks/*'",
            )
        values.setdefault(field, []).append(value)
    return [Filter(field, tuple(several)) for field, several in values.items()]


def _result(index: Index, snapshot: Snapshot, hits: Sequence[Hit]) -> SearchResult:
    now = datetime.now(UTC)
    known = changes.known(index.engine, index.name)
    listed_at = max(known.listed_at or snapshot.listed_at, snapshot.listed_at)
    return SearchResult(
        index=index.name,
        sequence=snapshot.sequence,
        committed_at=snapshot.committed_at,
        staleness_seconds=max(0.0, (now - known.since).total_seconds()) if known.since else 0.0,
        checked_seconds_ago=max(0.0, (now - listed_at).total_seconds()),
        hits=hits,
    )


def _hit(chunk: Chunk, score: float) -> Hit:
    return Hit(
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        content_hash=chunk.content_hash,
        position=chunk.position,
        title=chunk.title,
        uri=chunk.uri,
        text=chunk.text,
        metadata=chunk.metadata,
        score=score,
    )
