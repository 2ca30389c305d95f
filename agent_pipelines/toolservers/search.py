"""The search tool server: what an agent may read of the indexes.

Belongs here: the tools, their descriptions and the words of their errors. Does not belong here:
how an index is searched (`indexing/search.py`) or served (`shell.py`).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import anyio
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.indexing.search import Hit, Searcher, read_filters
from agent_pipelines.toolservers.shell import Readiness

T = TypeVar("T")

#: Searches at once; each holds a thread while it waits for the embedder and the store.
_CONCURRENT = 16

_NO_CHUNK = "00000000-0000-0000-0000-000000000000"

_READ_ONLY = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

IndexName = Annotated[str, Field(description="Name of the index, as `list_indexes` gives it.")]


class Passage(BaseModel):
    """One chunk, with what a citation of it needs."""

    chunk_id: str
    document_id: str
    content_hash: str
    uri: str
    title: str
    text: str
    metadata: dict[str, str]
    score: float


class Found(BaseModel):
    """What a search found, best first, and the snapshot it was read from."""

    index: str
    sequence: int = Field(description="Number of the snapshot.")
    committed_at: datetime
    staleness_seconds: float = Field(
        description="Age of the oldest source change that is not in this snapshot; 0: none known."
    )
    hits: list[Passage]


class Fetched(BaseModel):
    """One chunk that was asked for by its id."""

    index: str
    hit: Passage


class Indexes(BaseModel):
    """The indexes that can be searched."""

    indexes: list[str]


def build_server(searcher: Searcher) -> MCPServer:
    """An MCP server with the tools `search`, `fetch` and `list_indexes` over ``searcher``."""
    server = MCPServer(
        "agent-pipelines-search",
        instructions="Search the indexes and cite what you use by its chunk_id.",
        log_level="WARNING",
    )
    limiter = anyio.CapacityLimiter(_CONCURRENT)

    async def ask(question: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(question, limiter=limiter)
        except UnavailableError as error:
            raise ToolError(
                f"Unavailable: {error.message}. This is an outage, not an empty result: "
                "say that the index could not be read, or try again later."
            ) from error
        except UserError as error:
            # Names what is wrong and what to do, in words that serve a model as well.
            raise ToolError(f"{error.message}; {error.remedy}") from error

    @server.tool(annotations=_READ_ONLY)
    async def search(
        index: IndexName,
        query: Annotated[str, Field(min_length=1, description="What to look for, in words.")],
        limit: Annotated[int, Field(ge=1, le=50, description="How many passages at most.")] = 5,
        where: Annotated[
            list[str],
            Field(
                description="Conditions such as `team=storage` or `uri=*/runbooks/*`, on a key of "
                "the documents' metadata, `document_id`, `uri` or `title`. Conditions on the same "
                "field are alternatives."
            ),
        ] = [],  # noqa: B006 - it is a schema's default, and nobody changes it
    ) -> Found:
        """Search an index for passages that answer a query, by words and by meaning, best first."""
        result = await ask(
            lambda: searcher.search(index, query, limit=limit, filters=read_filters(where))
        )
        return Found(
            index=result.index,
            sequence=result.sequence,
            committed_at=result.committed_at.astimezone(UTC),
            staleness_seconds=result.staleness_seconds,
            hits=[_passage(hit) for hit in result.hits],
        )

    @server.tool(annotations=_READ_ONLY)
    async def fetch(
        index: IndexName,
        chunk_id: Annotated[str, Field(description="A chunk_id that `search` returned.")],
    ) -> Fetched:
        """Read one passage again by its id."""
        hit = await ask(lambda: searcher.fetch(index, chunk_id))
        if hit is None:
            raise ToolError(
                f"Index {index!r} holds no chunk {chunk_id!r}: it may have been replaced. "
                "Search again and use a chunk_id from that result."
            )
        return Fetched(index=index, hit=_passage(hit))

    @server.tool(annotations=_READ_ONLY)
    async def list_indexes() -> Indexes:
        """List the names of the indexes that can be searched."""
        return Indexes(indexes=sorted(await ask(searcher.indexes)))

    return server


def readiness(searcher: Searcher) -> Readiness:
    """Ready when an index can be read. One that was never committed says nothing either way."""

    def ask() -> str | None:
        for index in searcher.indexes():
            try:
                # Not found is the answer that shows state database and store to be there.
                searcher.fetch(index, _NO_CHUNK)
            except UnavailableError as error:
                return error.message
            except UserError:
                continue
            return None
        return None

    async def ready() -> str | None:
        return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)

    return ready


def _passage(hit: Hit) -> Passage:
    return Passage(
        chunk_id=hit.chunk_id,
        document_id=hit.document_id,
        content_hash=hit.content_hash,
        uri=hit.uri,
        title=hit.title,
        text=hit.text,
        metadata=dict(hit.metadata),
        score=hit.score,
    )
