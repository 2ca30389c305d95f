"""Reading an index: the one path that agents, the `search` command and the probes share.

Belongs here: query → hits with the snapshot they came from. Does not belong here: how hits reach
a caller (`toolservers/search.py`, `cli.py`) or how the store finds them (`resources/weaviate.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from agent_pipelines.errors import UserError
from agent_pipelines.indexing import changes
from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.embedding import embed_checked
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
class SearchResult:
    """Hits, best first, and the committed snapshot they were read from."""

    index: str
    sequence: int
    committed_at: datetime
    staleness_seconds: float
    """Age of the oldest source change known not to be live; 0 when none is known."""
    hits: Sequence[Hit]


class Searcher(Protocol):
    """What the search tool server needs; implemented below by `IndexSearcher`."""

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

    def fetch(self, index: str, chunk_id: str) -> Hit | None: ...


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
            UnavailableError: the store or the state database does not answer.
        """
        found = self._get(index)
        snapshot = self._snapshot(found)
        vector = embed_checked(found.embedder, [query])[0]
        pairs = found.store.search(
            found.alias, query, vector, limit=limit, filters=filters, alpha=alpha
        )
        since = changes.oldest(found.engine, index)
        return SearchResult(
            index=index,
            sequence=snapshot.sequence,
            committed_at=snapshot.committed_at,
            staleness_seconds=max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0,
            hits=[_hit(chunk, score) for chunk, score in pairs],
        )

    def fetch(self, index: str, chunk_id: str) -> Hit | None:
        """One chunk by id, or None where it is not in the live generation."""
        found = self._get(index)
        stored = found.store.get(self._snapshot(found).collection, [chunk_id]).get(chunk_id)
        return _hit(stored.chunk, 1.0) if stored else None

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
