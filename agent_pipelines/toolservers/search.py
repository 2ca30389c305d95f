"""The search tool server: what an agent may read of the indexes.

Belongs here: the tools, their descriptions and the words of their errors. Does not belong here:
how an index is searched (`indexing/search.py`) or served (`shell`).
"""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

import anyio
import anyio.to_thread
from mcp.server import MCPServer
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.health.readers import BlockedError
from agent_pipelines.indexing.search import Hit, Searcher, SearchResult, read_filters
from agent_pipelines.toolservers.outcome import outage
from agent_pipelines.toolservers.server import Readiness

By = Literal["words and meaning", "meaning", "words"]

#: How much the vectors weigh against the words.
_ALPHA = dict(zip(get_args(By), (0.5, 1.0, 0.0), strict=True))

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


class NotTrue(BaseModel):
    """A check of the index that it does not pass now."""

    signal: str
    state: Literal["false", "cannot tell"]
    since: datetime | None = Field(description="Null: it was never evaluated.")
    reason: str


class Standing(BaseModel):
    """Which state of an index something was read from, and what is doubtful about it."""

    index: str
    sequence: int = Field(description="Number of the snapshot.")
    committed_at: datetime
    staleness_seconds: float = Field(
        description="Age of the oldest source change that is not in this snapshot; 0: none known."
    )
    checked_seconds_ago: float = Field(
        description="Since the source was last looked at: of later changes nobody knows."
    )
    not_true: list[NotTrue] = Field(
        description="What is not known to be true of this index now. If there is anything, what "
        "was found may be outdated or incomplete: say so in your answer."
    )


class Found(Standing):
    """What a search found, best first, and the snapshot it was read from."""

    hits: list[Passage]


class Fetched(Standing):
    """One chunk that was asked for by its id."""

    hit: Passage


class Indexes(BaseModel):
    """The indexes that can be searched."""

    indexes: list[str]


class Withheld(BaseModel):
    """What a blocked index would have given: which chunks, and not what they say."""

    sequence: int
    chunks: dict[str, str] = Field(description="Content hash by chunk_id, best first.")


class Refusal(BaseModel):
    """Why there is no result, for programs; the text beside it says it to a model."""

    kind: Literal["unavailable", "mistaken", "missing", "blocked"]
    withheld: Withheld | None = Field(
        default=None, description="Where blocked: probes must see when the index is true again."
    )


def build_server(searcher: Searcher) -> MCPServer:
    """An MCP server with the tools `search`, `fetch` and `list_indexes` over ``searcher``."""
    server = MCPServer(
        "agent-pipelines-search",
        instructions="Search the indexes and cite what you use by its chunk_id.",
        log_level="WARNING",
    )
    limiter = anyio.CapacityLimiter(_CONCURRENT)

    async def answer(
        question: Callable[[], SearchResult], told: Callable[[SearchResult], CallToolResult]
    ) -> CallToolResult:
        try:
            return told(await anyio.to_thread.run_sync(question, limiter=limiter))
        except BlockedError as error:
            chunks = {hit.chunk_id: hit.content_hash for hit in error.result.hits}
            withheld = Withheld(sequence=error.result.sequence, chunks=chunks)
            return _refused(
                Refusal(kind="blocked", withheld=withheld),
                f"{error.message}. Say that the index cannot be relied on now, and do not answer "
                f"from memory. For whoever keeps it: {error.remedy}",
            )
        except UnavailableError as error:
            return outage(
                "index",
                f"Unavailable: {error.message}. This is an outage, not an empty result: "
                "say that the index could not be read, or try again later.",
                Refusal(kind="unavailable").model_dump(mode="json"),
            )
        except UserError as error:
            # Names what is wrong and what to do, in words that serve a model as well.
            return _refused(Refusal(kind="mistaken"), f"{error.message}; {error.remedy}")

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
        by: Annotated[
            By,
            Field(
                description="Leave it out for a question. `words`: only passages with the query's "
                "own words, for a name, a code or an error message. `meaning`: whatever words "
                "they use."
            ),
        ] = "words and meaning",
    ) -> Annotated[CallToolResult, Found]:
        """Search an index for passages that answer a query, by words and by meaning, best first."""
        return await answer(
            lambda: searcher.search(
                index, query, limit=limit, filters=read_filters(where), alpha=_ALPHA[by]
            ),
            lambda result: _told(
                Found(**_standing(result), hits=[_passage(hit) for hit in result.hits])
            ),
        )

    @server.tool(annotations=_READ_ONLY)
    async def fetch(
        index: IndexName,
        chunk_id: Annotated[str, Field(description="A chunk_id that `search` returned.")],
    ) -> Annotated[CallToolResult, Fetched]:
        """Read one passage again by its id."""

        def told(result: SearchResult) -> CallToolResult:
            if result.hits:
                return _told(Fetched(**_standing(result), hit=_passage(result.hits[0])))
            return _refused(
                Refusal(kind="missing"),
                f"Index {index!r} holds no chunk {chunk_id!r}: it may have been replaced. "
                "Search again and use a chunk_id from that result.",
            )

        return await answer(lambda: searcher.fetch(index, chunk_id), told)

    @server.tool(annotations=_READ_ONLY)
    async def list_indexes() -> Indexes:
        """List the names of the indexes that can be searched."""
        return Indexes(indexes=sorted(searcher.indexes()))

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


def _told(answer: BaseModel) -> CallToolResult:
    text = TextContent(type="text", text=answer.model_dump_json(indent=2))
    return CallToolResult(content=[text], structured_content=answer.model_dump(mode="json"))


def _refused(refusal: Refusal, text: str) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=refusal.model_dump(mode="json"),
        is_error=True,
    )


def _standing(result: SearchResult) -> dict[str, Any]:
    return {
        "index": result.index,
        "sequence": result.sequence,
        "committed_at": result.committed_at.astimezone(UTC),
        "staleness_seconds": result.staleness_seconds,
        "checked_seconds_ago": result.checked_seconds_ago,
        "not_true": [NotTrue(**asdict(doubt)) for doubt in result.not_true],
    }


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
