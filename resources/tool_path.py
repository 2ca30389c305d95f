"""The way that agents take to an index, for probes: the search tool over MCP, in step.

Belongs here: one connection in a thread of its own, its deadlines, tool results as sightings. Does
not belong here: finding the server (`tools.py`), or what a probe concludes (`health/probes.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from agent_pipelines.agents.tools import ToolResult, ToolTransportError
from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.indexing.serving import Sighting
from agent_pipelines.indexing.store import Stored

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from agent_pipelines.agents.tools import ToolSession
    from resources.tool_tls import TlsFiles

#: Seconds for one answer, connecting included: a search takes hundredths of one, and a tick has
#: other things to look at than a server that hangs.
_DEADLINE = 5.0

_REMEDY = "check that it runs; `agent-pipelines dev` restarts an embedded one"


class ToolPath:
    """Implements `ServingPath`; a context manager. Connects when it is first asked.

    A server that did not answer once is not waited for again.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: float = _DEADLINE,
        files: "TlsFiles | None" = None,
        token: Callable[[], str] | None = None,
    ) -> None:
        self._url = url
        self._deadline = deadline
        self._files = files
        self._token = token
        self._held = ExitStack()
        self._portal: BlockingPortal | None = None
        self._session: ToolSession | None = None
        self._down: str | None = None

    @property
    def name(self) -> str:
        return f"through the search tool at {self._url}"

    def __enter__(self) -> "ToolPath":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def nearest(self, index: str, wanted: Stored, *, limit: int, load_model: bool) -> Sighting:
        """See `ServingPath`: here the server embeds."""
        del load_model
        query = wanted.chunk.text
        arguments = {"index": index, "query": query, "limit": limit, "by": "meaning"}
        result = self._call("search", arguments)
        if result.is_error:
            return self._withheld(result)
        from agent_pipelines.toolservers.search import Found

        found = self._read(Found, result.structured)
        return Sighting(found.sequence, {hit.chunk_id: hit.content_hash for hit in found.hits})

    def fetch(self, index: str, chunk_id: str) -> str | None:
        """See `ServingPath`."""
        result = self._call("fetch", {"index": index, "chunk_id": chunk_id})
        if result.is_error:
            if (result.structured or {}).get("kind") == "missing":
                return None
            return self._withheld(result).chunks.get(chunk_id)
        from agent_pipelines.toolservers.search import Fetched

        return str(self._read(Fetched, result.structured).hit.content_hash)

    def _withheld(self, result: ToolResult) -> Sighting:
        """What a blocked index would have given; readers are told why they get nothing."""
        from agent_pipelines.toolservers.search import Refusal

        refusal = self._read(Refusal, result.structured, said=result.text)
        if refusal.kind == "mistaken":
            raise UserError(f"the search tool says: {result.text}", remedy=_REMEDY)
        if refusal.withheld is None:
            raise UnavailableError(f"{self._url} says: {result.text}", remedy=_REMEDY)
        return Sighting(refusal.withheld.sequence, refusal.withheld.chunks)

    def _read(self, model: Any, structured: Any, *, said: str = "") -> Any:
        from pydantic import ValidationError

        try:
            return model.model_validate(structured)
        except ValidationError as error:
            raise UnavailableError(
                f"{self._url} does not answer like the search tool of this program: "
                f"{said or str(error).splitlines()[0]}",
                remedy="set SEARCH_TOOL_URL to one of the same version",
            ) from error

    def _call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        if self._down is None:
            try:
                result: ToolResult = self._opened().call(self._timed, tool, arguments)
                return result
            except (ToolTransportError, TimeoutError) as error:
                self._down = (
                    str(error) or f"{self._url} does not answer within {self._deadline:g} s"
                )
        raise UnavailableError(f"the search tool does not answer: {self._down}", remedy=_REMEDY)

    def _opened(self) -> "BlockingPortal":
        from anyio.from_thread import start_blocking_portal

        if self._portal is None:
            portal = self._held.enter_context(start_blocking_portal())
            self._session = self._held.enter_context(
                portal.wrap_async_context_manager(self._connected())
            )
            self._portal = portal
        return self._portal

    @asynccontextmanager
    async def _connected(self) -> "AsyncIterator[ToolSession]":
        from resources.tool_session import open_session
        from resources.tool_tls import ClientTls

        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._deadline):
                session = await stack.enter_async_context(
                    open_session(
                        self._url,
                        connect_timeout=self._deadline,
                        call_timeout=self._deadline,
                        tls=ClientTls(self._files) if self._files else None,
                        token=self._token,
                    )
                )
            yield session

    async def _timed(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        assert self._session is not None
        async with asyncio.timeout(self._deadline):
            return await self._session.call(tool, arguments)
