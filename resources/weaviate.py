"""Weaviate behind the engine's `VectorStore` protocol.

Belongs here: every call to Weaviate, with its traps. Does not belong here: what should be in it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from time import sleep
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import numpy as np
from pydantic import Field

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.indexing.partition import WHOLE, Partition
from agent_pipelines.indexing.store import (
    CollectionSettings,
    Consistency,
    Deviation,
    Filter,
    Replication,
    Stored,
    StoreError,
)
from agent_pipelines.local.parts import addresses
from agent_pipelines.local.weaviate import api_key
from agent_pipelines.settings import Settings
from resources.weaviate_notes import Notes
from resources.weaviate_objects import PROPERTIES, properties_of, stored_of
from resources.weaviate_replicas import Replicas

#: Seconds to wait for one answer; a write of 256 chunks takes tenths of a second.
_TIMEOUT_CONNECT, _TIMEOUT_QUERY, _TIMEOUT_INSERT = 5, 30, 90

#: Seconds before the one retry.
_BEFORE_AGAIN = 0.2

#: Objects per page of the cursor.
_PAGE = 1_000

#: Objects per request: a few MB, well below gRPC's limit on a message.
_INSERT_AT_MOST = 500

#: Hits among which an object must be found by its own vector, and searches at once.
_NEAREST, _AT_ONCE = 20, 8

#: Cosine distance of vectors that are the same but for rounding.
_SAME = 1e-5

#: Objects that are written twice, for their flush: with three shards, one in a million is left out.
_FLUSHED_WITH = 32

#: `delete_many` never deletes more than this in one call (the server's default).
_DELETE_AT_MOST = 5_000

#: What decides the order of hits and can be changed under our feet; Weaviate's own defaults. An ef
#: of -1: as wide a search as the number of hits asks for.
_DISTANCE, _EF = "cosine", -1
_BM25_B, _BM25_K1 = 0.75, 1.2
_RANKING = f"b {_BM25_B:g}, k1 {_BM25_K1:g}, stopwords en"


class WeaviateResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where generations are stored and searched."""

    url: str | None = Field(
        default=None, description="Default: WEAVIATE_URL, else the embedded Weaviate's address."
    )
    grpc: str | None = Field(
        default=None, description="host:port of gRPC; default: WEAVIATE_GRPC, else port 50051."
    )
    api_key: str | None = Field(default=None, description="Default: WEAVIATE_API_KEY, else none.")

    def connect(self, consistency: Consistency = "quorum") -> "WeaviateStore":
        """Open the store; close it when done, or use it as a context manager.

        Args:
            consistency: how many replicas confirm a write and answer a read, at least.

        Raises:
            UserError: no Weaviate is configured and none is running here.
            UnavailableError: it does not answer.
        """
        settings = Settings()
        key = self.api_key or settings.weaviate_api_key
        url = self.url or settings.weaviate_url
        if url:
            if not _is_url(url):
                raise UserError(
                    f"WEAVIATE_URL {url!r} is not an http(s) URL",
                    remedy="write it like http://localhost:8080",
                )
            grpc = self.grpc or settings.weaviate_grpc or f"{urlsplit(url).hostname}:50051"
            host, _, port = grpc.rpartition(":")
            if not host or not port.isdecimal() or grpc == urlsplit(url).netloc:
                raise UserError(
                    f"WEAVIATE_GRPC {grpc!r} is not the host:port of Weaviate's gRPC service",
                    remedy="write it like localhost:50051; its port is not that of WEAVIATE_URL",
                )
            return WeaviateStore(url, grpc, key, consistency)
        embedded = addresses(settings.state_dir, "weaviate")
        if embedded is None:
            raise UnavailableError(
                f"no Weaviate is running for {settings.state_dir}",
                remedy="start one with `agent-pipelines dev`, or set WEAVIATE_URL",
            )
        key = api_key(settings.state_dir)
        return WeaviateStore(embedded["url"], embedded["grpc"], key, consistency)


class WeaviateStore:
    """One connection. Implements `VectorStore`."""

    def __init__(
        self, url: str, grpc: str, api_key: str | None, consistency: Consistency = "quorum"
    ) -> None:
        import weaviate
        from weaviate.classes.init import AdditionalConfig, Auth, Timeout

        _wait_no_longer_than_we_do()
        self._url = url
        self._consistency = consistency
        self._notes = Notes(url, api_key, consistency)
        self._replicas = Replicas(url, api_key, consistency)
        http, (grpc_host, _, grpc_port) = urlsplit(url), grpc.rpartition(":")
        secure = http.scheme == "https"
        with self._answering():
            self._client = weaviate.connect_to_custom(
                http_host=http.hostname or "",
                http_port=http.port or (443 if secure else 80),
                http_secure=secure,
                grpc_host=grpc_host,
                grpc_port=int(grpc_port),
                grpc_secure=secure,
                auth_credentials=Auth.api_key(api_key) if api_key else None,
                additional_config=AdditionalConfig(
                    timeout=Timeout(
                        init=_TIMEOUT_CONNECT, query=_TIMEOUT_QUERY, insert=_TIMEOUT_INSERT
                    )
                ),
            )

    def __enter__(self) -> "WeaviateStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        self._notes.close()

    def collections(self) -> Sequence[str]:
        """Names of all collections."""
        with self._answering():
            return list(self._client.collections.list_all())

    def create_collection(
        self, collection: str, description: str, settings: CollectionSettings
    ) -> None:
        """Create an empty collection for one generation."""
        from weaviate.classes.config import (
            Configure,
            ReplicationDeletionStrategy,
            StopwordsPreset,
        )

        replicated = settings.replication_factor > 1
        with self._answering():
            self._client.collections.create(
                collection,
                description=description,
                vector_config=Configure.Vectors.self_provided(
                    vector_index_config=_vector_index(settings)
                ),
                inverted_index_config=Configure.inverted_index(
                    bm25_b=_BM25_B, bm25_k1=_BM25_K1, stopwords_preset=StopwordsPreset.EN
                ),
                replication_config=Configure.replication(
                    factor=settings.replication_factor,
                    async_enabled=replicated,
                    # Else a replica that missed a deletion brings the object back.
                    deletion_strategy=ReplicationDeletionStrategy.TIME_BASED_RESOLUTION
                    if replicated
                    else None,
                ),
                properties=_schema(),
            )

    def drop_collection(self, collection: str) -> None:
        """Delete a collection and everything in it."""
        with self._answering():
            self._client.collections.delete(collection)

    def deviations(
        self, collection: str, settings: CollectionSettings | None
    ) -> Sequence[Deviation]:
        """Where a collection's schema is not what `create_collection` makes.

        Only what that says outright is looked at: the rest are defaults, which differ between
        versions of Weaviate. Replicas may be added and moved.
        """
        try:
            with self._answering():
                config = self._use(collection).config.get()
        except KeyError as missing:
            # The client expects of any schema what Weaviate leaves out where it is zero.
            return [Deviation(str(missing).strip("'"), "none, or zero", "as it was created")]
        observed = {found.name: _spelled(found) for found in config.properties}
        expected = {wanted["name"]: wanted for wanted in map(_said, _schema())}
        found = []
        for name in sorted(observed.keys() | expected.keys()):
            wanted, has = expected.get(name), observed.get(name)
            if wanted is None or has is None:
                said = [_shown(each) if each else "none" for each in (has, wanted)]
                found.append(Deviation(f"property {name}", *said))
            elif (same := {key: has[key] for key in wanted}) != wanted:
                found.append(Deviation(f"property {name}", _shown(same), _shown(wanted)))
        if settings is not None:
            index = (config.vector_config or {}).get("default")
            kept = index.vector_index_config if index else None
            pairs = {
                "vector index": (
                    str(kept.vector_index_type()) if kept else "none",
                    settings.vector_index,
                ),
                "quantisation": (_quantisation(kept), settings.quantisation),
                "distance": (_distance(kept), _DISTANCE),
                "ranking of words": (_ranking(config.inverted_index_config), _RANKING),
            }
            if settings.vector_index == "hnsw":
                pairs["width of a search"] = (str(getattr(kept, "ef", None)), str(_EF))
            found += [Deviation(what, *pair) for what, pair in pairs.items() if pair[0] != pair[1]]
        return found

    def read_only(self, collection: str) -> Sequence[str]:
        """Shards of a collection that take no writes."""
        with self._answering():
            shards = self._use(collection).config.get_shards()
        return [shard.name for shard in shards if str(shard.status).upper() == "READONLY"]

    def note(self, key: str) -> str | None:
        """What was noted last under this key, or None."""
        return self._notes.read(key)

    def write_note(self, key: str, value: str, settings: CollectionSettings) -> None:
        """Note a value; within seconds, or not at all."""
        self._notes.write(key, value, replicas=settings.replication_factor)

    def replication(self, collection: str) -> Replication:
        """How a collection is replicated, and which of its nodes answer."""
        return self._replicas.of(collection)

    def copies(
        self, replication: Replication, chunk_ids: Sequence[str]
    ) -> Mapping[str, Mapping[str, Stored | None]]:
        """What each replica holds, by id and node."""
        return self._replicas.copies(replication, chunk_ids)

    def purge(self, collection: str, chunk_ids: Sequence[str]) -> None:
        """Delete from every replica, whether or not the others have it."""
        self._replicas.purge(collection, chunk_ids)

    def alias_target(self, alias: str) -> str | None:
        """The collection an alias points to, or None."""
        with self._answering():
            found = self._client.alias.get(alias_name=alias)
            return found.collection if found else None

    def point_alias(self, alias: str, collection: str) -> None:
        """Create or atomically swap the alias, and verify it."""
        with self._answering():
            # `update` on a missing alias answers False; `create` on an existing one raises.
            if self.alias_target(alias) is None:
                self._client.alias.create(alias_name=alias, target_collection=collection)
            else:
                self._client.alias.update(alias_name=alias, new_target_collection=collection)
        if (target := self.alias_target(alias)) != collection:
            raise StoreError(f"alias {alias} points to {target} instead of {collection}")

    def write(
        self, collection: str, chunks: Sequence[Chunk], vectors: Vectors, fingerprint: str
    ) -> None:
        """Insert or replace; returns only when every id is confirmed."""
        from weaviate.classes.data import DataObject

        objects = [
            DataObject(
                properties=properties_of(chunk, fingerprint), uuid=chunk.id, vector=vector.tolist()
            )
            for chunk, vector in zip(chunks, vectors, strict=True)
        ]
        data = self._use(collection).data
        for start in range(0, len(objects), _INSERT_AT_MOST):
            some = objects[start : start + _INSERT_AT_MOST]
            # insert_many and not a batch context: it answers per object and costs no fixed second.
            with self._answering():
                answer = data.insert_many(some)
            confirmed = {str(id_) for id_ in answer.uuids.values()}
            missing = len(some) - len(confirmed & {str(o.uuid) for o in some})
            if missing:
                reason = next((e.message for e in answer.errors.values()), "no reason given")
                raise StoreError(f"{missing} of {len(some)} chunks were not stored: {reason}")
        # A batch flushes the log of the vector index before its own vectors are in it (seen in
        # 1.39.0): killed then, Weaviate comes back with every object, and without the vectors in
        # its index. Objects that are the same are no work; these are enough for every shard.
        with self._answering():
            if errors := data.insert_many(objects[-_FLUSHED_WITH:]).errors:
                raise StoreError(f"the vector index is not flushed: {errors}")

    def move(self, collection: str, positions: Mapping[str, int]) -> None:
        """Give stored chunks a new position; id and vector stay."""
        ids = list(positions)
        for start in range(0, len(ids), _INSERT_AT_MOST):
            some = ids[start : start + _INSERT_AT_MOST]
            stored = self.get(collection, some)
            if lost := [id_ for id_ in some if (s := stored.get(id_)) is None or s.vector is None]:
                raise StoreError(f"{len(lost)} chunks that were to move are not there")
            # Written whole: a hundred times quicker than a change of one property each.
            moved = [replace(stored[id_].chunk, position=positions[id_]) for id_ in some]
            vectors = np.array([stored[id_].vector for id_ in some], np.float32)
            self.write(collection, moved, vectors, stored[some[0]].fingerprint)

    def delete(self, collection: str, chunk_ids: Sequence[str]) -> None:
        """Delete, and confirm that none of the ids is left."""
        from weaviate.classes.query import Filter

        data = self._use(collection).data
        for start in range(0, len(chunk_ids), _DELETE_AT_MOST):
            these = Filter.by_id().contains_any(list(chunk_ids[start : start + _DELETE_AT_MOST]))
            with self._answering():
                answer = data.delete_many(where=these)
                if answer.failed:
                    raise StoreError(f"{answer.failed} of {answer.matches} chunks were not deleted")
                left = data.delete_many(where=these, dry_run=True).matches
            if left:
                raise StoreError(f"{left} deleted chunks are still there")

    def count(self, collection: str, partition: Partition = WHOLE) -> int:
        """Exact number of objects (`/v1/nodes` counts lag, this does not)."""
        from weaviate.classes.query import Filter, Metrics

        these = (
            Filter.by_property("bucket").contains_any(list(partition.buckets))
            if partition.of > 1
            else None
        )
        aggregate = self._use(collection).aggregate
        with self._answering():
            # Asked for nothing but the count, Weaviate 1.39 waits a minute for every replica, and
            # says 0 where too few answer: one node that is away would stop all syncs.
            answer = aggregate.over_all(
                total_count=True,
                filters=these,
                return_metrics=Metrics("bucket").integer(count=True),
            )
        return answer.total_count or 0

    def scan(self, collection: str) -> Iterator[Stored]:
        """Every object."""
        with self._answering():
            for found in self._use(collection).iterator(
                include_vector=True, return_properties=list(PROPERTIES), cache_size=_PAGE
            ):
                yield _stored(found)

    def get(self, collection: str, chunk_ids: Sequence[str]) -> Mapping[str, Stored]:
        """The objects with these ids that exist, with their vectors."""
        found: dict[str, Stored] = {}
        query = self._use(collection).query
        for start in range(0, len(chunk_ids), _INSERT_AT_MOST):
            some = list(chunk_ids[start : start + _INSERT_AT_MOST])
            with self._answering():
                answer = query.fetch_objects_by_ids(some, limit=len(some), include_vector=True)
            found.update((stored.chunk.id, stored) for stored in map(_stored, answer.objects))
        return found

    def unfindable(
        self, collection: str, stored: Sequence[Stored], *, among: int = _NEAREST
    ) -> Sequence[str]:
        """Ids of those that a search for their own vector does not find among that many hits."""
        from weaviate.classes.query import MetadataQuery

        query = self._use(collection).query

        def lost(one: Stored) -> bool:
            if one.vector is None:
                return True
            with self._answering():
                answer = query.near_vector(
                    one.vector.tolist(),
                    limit=among,
                    return_metadata=MetadataQuery(distance=True),
                )
            ids = {str(found.uuid) for found in answer.objects}
            distances = [found.metadata.distance or 0 for found in answer.objects]
            # Among that many of the same text it need not be one of the first.
            crowded = len(distances) == among and max(distances) < _SAME
            return one.chunk.id not in ids and not crowded

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="find") as pool:
            return [
                s.chunk.id for s, gone in zip(stored, pool.map(lost, stored), strict=True) if gone
            ]

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
        """Hybrid search (BM25 and vector), best first, with scores."""
        from weaviate.classes.query import HybridFusion, MetadataQuery

        with self._answering():
            answer = self._use(alias).query.hybrid(
                query=query,
                vector=vector.tolist(),
                limit=limit,
                alpha=alpha,
                fusion_type=HybridFusion.RELATIVE_SCORE,
                query_properties=["title", "text"],
                filters=_where(filters),
                return_metadata=MetadataQuery(score=True),
            )
        return [(_stored(found).chunk, found.metadata.score or 0.0) for found in answer.objects]

    def _use(self, collection: str) -> Any:
        from weaviate.classes.config import ConsistencyLevel

        level = ConsistencyLevel[self._consistency.upper()]
        return self._client.collections.use(collection).with_consistency_level(level)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell a store that does not answer from one that refuses."""
        import grpc
        import httpx
        from weaviate import exceptions as e

        try:
            yield
        except (
            e.WeaviateConnectionError,
            e.WeaviateGRPCUnavailableError,
            e.WeaviateStartUpError,
            e.WeaviateTimeoutError,
            e.WeaviateClosedClientError,
            grpc.RpcError,
            httpx.HTTPError,
            OSError,
        ) as error:
            raise UnavailableError(
                f"Weaviate at {self._url} does not answer: {_first_line(error)}",
                remedy="check that it runs; `agent-pipelines dev` restarts an embedded one",
            ) from error
        except e.WeaviateBaseError as error:
            raise StoreError(f"Weaviate refused: {_first_line(error)}") from error


def _wait_no_longer_than_we_do() -> None:
    """Put one quick retry in the place of the client's own: a minute of uninterruptible sleeps.

    Whoever calls has a deadline of its own: an agent is told of the outage, a sync runs again.
    """
    from weaviate.retry import _Retry

    _Retry.with_exponential_backoff = _again_once  # type: ignore[method-assign,assignment]


def _again_once(
    _self: object, count: int, error: str, f: Callable[..., Any], *args: Any, **more: Any
) -> Any:
    """Call `f`, and once more on a connection that the server's restart has cut.

    Raises:
        ConnectionError: nobody answers; with a code, which the client would leave out.
    """
    from grpc import RpcError, StatusCode

    try:
        return f(*args, **more)
    except RpcError as failed:
        if failed.code() is StatusCode.DEADLINE_EXCEEDED:
            raise TimeoutError(failed.details()) from failed
        if failed.code() is not StatusCode.UNAVAILABLE:
            raise
        if count:
            raise ConnectionError(failed.details()) from failed
    sleep(_BEFORE_AGAIN)
    return _again_once(_self, count + 1, error, f, *args, **more)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def _vector_index(settings: CollectionSettings) -> Any:
    from weaviate.classes.config import Configure, VectorDistances

    # Said outright: the server has a default of its own, which loses precision.
    quantizer = getattr(Configure.VectorIndex.Quantizer, settings.quantisation)()
    width = {"ef": _EF} if settings.vector_index == "hnsw" else {}
    return getattr(Configure.VectorIndex, settings.vector_index)(
        distance_metric=VectorDistances(_DISTANCE), quantizer=quantizer, **width
    )


def _quantisation(index: Any) -> str:
    """Which quantiser a collection's vector index has, as `CollectionSettings` calls it."""
    from weaviate.collections.classes import config as c

    kinds = {c._RQConfig: "rq", c._PQConfig: "pq", c._SQConfig: "sq", c._BQConfig: "bq"}
    quantizer = getattr(index, "quantizer", None)
    return "none" if quantizer is None else kinds.get(type(quantizer), type(quantizer).__name__)


def _distance(index: Any) -> str:
    """By what a collection's vector index measures."""
    metric = getattr(index, "distance_metric", None)
    return str(getattr(metric, "value", metric))


def _ranking(inverted: Any) -> str:
    """How a collection ranks words, and which it leaves out."""
    words = inverted.stopwords
    said = f"b {inverted.bm25.b:g}, k1 {inverted.bm25.k1:g}, stopwords {words.preset.value}"
    changed = [f"+{word}" for word in words.additions or ()]
    changed += [f"-{word}" for word in words.removals or ()]
    return " ".join([said, *changed])


def _said(wanted: Any) -> dict[str, Any]:
    """What we say of a property when we create it; what we leave to Weaviate is not in it."""
    said = {
        "name": wanted.name,
        "type": wanted.dataType.value,
        "tokenization": wanted.tokenization and wanted.tokenization.value,
        "searchable": wanted.indexSearchable,
        "filterable": wanted.indexFilterable,
    }
    return {key: value for key, value in said.items() if value is not None}


def _spelled(found: Any) -> dict[str, Any]:
    """The same of a property that Weaviate has."""
    return {
        "name": found.name,
        "type": found.data_type.value,
        "tokenization": found.tokenization and found.tokenization.value,
        "searchable": found.index_searchable,
        "filterable": found.index_filterable,
    }


def _shown(said: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in said.items() if key != "name")


def _schema() -> Sequence[Any]:
    from weaviate.classes.config import DataType, Property, Tokenization

    def exact(name: str, *, filterable: bool = True, many: bool = False) -> Property:
        return Property(
            name=name,
            data_type=DataType.TEXT_ARRAY if many else DataType.TEXT,
            index_searchable=False,
            index_filterable=filterable,
            tokenization=Tokenization.FIELD,
        )

    def words(name: str, *, filterable: bool) -> Property:
        return Property(
            name=name,
            data_type=DataType.TEXT,
            index_searchable=True,
            index_filterable=filterable,
            tokenization=Tokenization.WORD,
        )

    return [
        exact("document_id"),
        exact("content_hash", filterable=False),
        exact("spec"),
        words("title", filterable=True),
        exact("uri"),
        words("text", filterable=False),
        exact("metadata", many=True),
        Property(name="position", data_type=DataType.INT, index_filterable=False),
        Property(name="bucket", data_type=DataType.INT),
    ]


def _where(filters: Sequence[Filter]) -> Any:
    from weaviate.classes.query import Filter as Where

    def one(filter_: Filter) -> Any:
        own = filter_.field in ("document_id", "uri", "title")
        prefix = "" if own else f"{filter_.field}="
        by = Where.by_property(filter_.field if own else "metadata")
        values = [f"{prefix}{value}" for value in filter_.values]
        return Where.any_of([by.like(v) if "*" in v else by.contains_any([v]) for v in values])

    return Where.all_of([one(filter_) for filter_ in filters]) if filters else None


def _stored(found: Any) -> Stored:
    return stored_of(str(found.uuid), found.properties, found.vector)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
