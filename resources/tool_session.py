"""One MCP session over streamable HTTP, and the line between an outage and a tool's own error.

Belongs here: the client, shared by all tasks of a worker. Does not belong here: its configuration
(`tools.py`), how a failed handshake is explained (`tool_tls.py`), when a call is made or made again
(`agents/guard.py`) or what a failure leads to (`agents`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
from mcp.client import Client
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    PARSE_ERROR,
    REQUEST_TIMEOUT,
    CallToolResult,
    TextContent,
)
from pydantic import ValidationError

from agent_pipelines.agents.tools import (
    ToolInfo,
    ToolNotSentError,
    ToolResult,
    ToolSession,
    ToolTransportError,
)
from agent_pipelines.errors import UserError
from agent_pipelines.toolservers.outcome import NOT_SENT, OUTAGE
from resources.tool_results import typed
from resources.tool_tls import ClientTls, TlsFiles, expiry, explain, why_refused

#: JSON-RPC errors that no tool gave. All others are answers of a server that is well.
_TRANSPORT_CODES = (CONNECTION_CLOSED, REQUEST_TIMEOUT, PARSE_ERROR)

#: Connections kept open between calls, and for how many seconds: less than any server keeps them,
#: for a call that meets a connection as it closes has failed.
_KEPT_OPEN, _KEPT_SECONDS = 64, 3.0

#: Too much was sent: the caller's mistake, not the server's.
_TOO_LARGE = 413

#: Statuses that say: try another token.
_UNAUTHORISED = (401, 403)


@asynccontextmanager
async def open_session(
    url: str,
    *,
    connect_timeout: float,
    call_timeout: float,
    tls: ClientTls | None = None,
    token: Callable[[], str] | None = None,
) -> AsyncIterator[ToolSession]:
    """A session with the server at ``url``.

    Args:
        url: of its MCP endpoint.
        connect_timeout: seconds.
        call_timeout: seconds for one exchange, and for opening the session.
        tls: default: what this machine trusts, and no certificate of our own.
        token: asked for before every exchange, and sent with it.

    Raises:
        ToolTransportError: it does not answer, or refuses us.
    """
    tls = tls or ClientTls(TlsFiles())
    # How many calls run at once is not a pool's to decide; nor is sending one again.
    limits = httpx2.Limits(
        max_connections=None,
        max_keepalive_connections=_KEPT_OPEN,
        keepalive_expiry=_KEPT_SECONDS,
    )
    inner = httpx2.AsyncHTTPTransport(verify=tls.context, limits=limits, retries=0)
    wire = OutageAsAnswer(inner, tls=tls, token=token)
    async with httpx2.AsyncClient(
        timeout=httpx2.Timeout(call_timeout, connect=connect_timeout), transport=wire
    ) as http:
        session = _Session(url, http, wire, call_timeout)
        await session.open()
        try:
            yield session
        finally:
            await session.close()


class OutageAsAnswer(httpx2.AsyncBaseTransport):
    """Turns a failed HTTP exchange into a JSON-RPC error that answers its one request.

    Left to itself the SDK ends the whole session, and with it every other task's call, when one
    request cannot be sent or its response breaks off.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        *,
        tls: ClientTls | None = None,
        token: Callable[[], str] | None = None,
    ) -> None:
        self.tls = tls or ClientTls(TlsFiles())
        self.session_lost = False
        """Whether the server has said that it knows nothing of our session."""
        self._inner = inner
        self._token = token

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; whatever goes wrong on the way comes back as a response."""
        self.tls.renew()
        try:
            if self._token is not None:
                request.headers["authorization"] = f"Bearer {self._token()}"
            response = await self._inner.handle_async_request(request)
            if not _streams(response):
                # Read here, where a response that breaks off can still be answered for.
                await response.aread()
        except UserError as error:
            # The token's file is gone for now, perhaps while somebody renews it.
            return _error(CONNECTION_CLOSED, f"{error.message}; {error.remedy}", NOT_SENT)
        except httpx2.TimeoutException as error:
            said = f"{type(error).__name__}: no answer in time"
            return _error(REQUEST_TIMEOUT, said, _before_sending(error))
        except httpx2.RequestError as error:
            # A server that refuses our certificate may just close the connection.
            said = explain(error, str(request.url), self.tls.files) or str(error)
            said = ": ".join(filter(None, (type(error).__name__, said, expiry(self.tls.files))))
            return _error(CONNECTION_CLOSED, said, _before_sending(error))
        if request.method == "POST" and (wrong := self._what_is_wrong(request, response)):
            return wrong
        return response

    def _what_is_wrong(
        self, request: httpx2.Request, response: httpx2.Response
    ) -> httpx2.Response | None:
        """An answer in place of one that no MCP server gives when it is well."""
        status = response.status_code
        if status == 404 and MCP_SESSION_ID in request.headers:
            self.session_lost = True
            said = "the server does not know the session any more"
            return _error(CONNECTION_CLOSED, said, NOT_SENT)
        if response.is_success:
            kind = response.headers.get("content-type", "")
            if status in (202, 204) or _streams(response) or kind.startswith("application/json"):
                return None
            return _error(CONNECTION_CLOSED, f"HTTP {status} with {kind or 'no content type'}")
        if response.is_error and (status >= 500 or status == 429 or not _is_json_rpc(response)):
            said = f"HTTP {status}: {response.text[:200].strip()}"
            if status in _UNAUTHORISED:
                said = f"{said}; set `token` or `token_file` to one that it accepts"
            code = INVALID_PARAMS if status == _TOO_LARGE else CONNECTION_CLOSED
            # Refused at the door, before any tool was called.
            refused = status in (*_UNAUTHORISED, 429) or _error_data(response) == NOT_SENT
            return _error(code, said, NOT_SENT if refused else None)
        return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _Session:
    """Implements `ToolSession`; opened again when its server has forgotten it."""

    def __init__(
        self, url: str, http: httpx2.AsyncClient, wire: OutageAsAnswer, timeout: float
    ) -> None:
        self._url = url
        self._http = http
        self._wire = wire
        self._timeout = timeout
        self._opening = asyncio.Lock()
        self._client: Client | None = None
        self._holder: asyncio.Task[None] | None = None
        self._done = asyncio.Event()
        self._repeatable: set[str] = set()

    async def open(self) -> None:
        """Connect.

        Raises:
            ToolTransportError: the server does not answer, or refuses us.
        """
        self._client = None
        self._wire.session_lost = False
        client = Client(
            typed(streamable_http_client(self._url, http_client=self._http)),
            read_timeout_seconds=self._timeout,
            mode="auto",
        )
        connected, self._done = asyncio.Event(), asyncio.Event()
        self._holder = asyncio.create_task(_hold(client, connected, self._done))
        waiter = asyncio.create_task(connected.wait())
        try:
            await asyncio.wait(
                {self._holder, waiter}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if connected.is_set():
                self._client = client
                return
            # An MCP server that is slow to greet, or one that is none: the SDK asks it twice.
            error = _innermost(self._holder.exception()) if self._holder.done() else None
            said = str(error or f"no answer within {self._timeout:g} s")
            raise ToolTransportError(await self._why() or f"{self._url}: {said}") from error
        finally:
            waiter.cancel()
            if not connected.is_set():
                # A server that hangs would be waited for in vain.
                self._holder.cancel()
                await asyncio.wait({self._holder})

    async def close(self) -> None:
        """Disconnect; a server that hangs is not waited for."""
        if self._holder is None:
            return
        self._done.set()
        await asyncio.wait({self._holder}, timeout=1.0)
        self._holder.cancel()
        await asyncio.wait({self._holder})

    async def list_tools(self) -> Sequence[ToolInfo]:
        tools: list[ToolInfo] = []
        cursor: str | None = None
        client = await self._opened()
        while True:
            try:
                page = await client.list_tools(cursor=cursor)
            except (MCPError, ValidationError) as error:
                raise ToolTransportError(f"{self._url}: {error}") from error
            for tool in page.tools:
                hints = tool.annotations
                tools.append(
                    ToolInfo(
                        name=tool.name,
                        description=tool.description or "",
                        input_schema=tool.input_schema,
                        repeatable=bool(hints and (hints.idempotent_hint or hints.read_only_hint)),
                    )
                )
            cursor = page.next_cursor
            if cursor is None:
                self._repeatable = {tool.name for tool in tools if tool.repeatable}
                return tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        try:
            client = await self._opened()
        except ToolTransportError as error:
            raise ToolNotSentError(str(error)) from error
        try:
            if name in self._repeatable:
                result: Any = await client.call_tool(name, dict(arguments))
            else:
                # Without the convenience that sends a call anew: by its listing, for more input.
                result = await client.session.call_tool(
                    name, dict(arguments), allow_input_required=True
                )
        except MCPError as error:
            if error.code in _TRANSPORT_CODES:
                kind = ToolNotSentError if error.data == NOT_SENT else ToolTransportError
                raise kind(f"{self._url}: {error}") from error
            return ToolResult(True, str(error))
        except (ValidationError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            # Not a tool result by any protocol version, or a client that has ended.
            raise ToolTransportError(f"{self._url}: not a tool result: {error!r}") from error
        except RuntimeError as error:
            # The SDK's word for a result that is not what the tool's own output schema says, and
            # for a tool that never has enough input.
            return ToolResult(True, str(error).splitlines()[0])
        if not isinstance(result, CallToolResult):
            return ToolResult(True, f"{name} asks for input that no agent can give.")
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        down = (result.meta or {}).get(OUTAGE) if result.is_error else None
        return ToolResult(
            bool(result.is_error), text, result.structured_content, str(down) if down else None
        )

    async def _opened(self) -> Client:
        if self._usable is None:
            async with self._opening:
                if self._usable is None:
                    await self.close()
                    await self.open()
        assert self._client is not None
        return self._client

    @property
    def _usable(self) -> Client | None:
        assert self._holder is not None
        return None if self._wire.session_lost or self._holder.done() else self._client

    async def _why(self) -> str | None:
        if not self._url.startswith("https:"):
            return None
        return await asyncio.to_thread(why_refused, self._url, self._wire.tls)


async def _hold(client: Client, connected: asyncio.Event, done: asyncio.Event) -> None:
    """Keeps the client in a task of its own.

    Its task groups wrap every exception of the block they surround in an ExceptionGroup; here
    that block is this function, not the caller's.
    """
    async with client:
        connected.set()
        await done.wait()


def _streams(response: httpx2.Response) -> bool:
    return bool(response.headers.get("content-type", "").startswith("text/event-stream"))


def _is_json_rpc(response: httpx2.Response) -> bool:
    try:
        return "jsonrpc" in json.loads(response.content)
    except (ValueError, TypeError):
        return False


def _error_data(response: httpx2.Response) -> Any:
    """What a JSON-RPC error says beyond its message; None where it is none."""
    try:
        return json.loads(response.content)["error"]["data"]
    except (ValueError, TypeError, LookupError):
        return None


def _before_sending(error: httpx2.RequestError) -> str | None:
    return NOT_SENT if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout) else None


def _error(code: int, message: str, data: str | None = None) -> httpx2.Response:
    said: dict[str, Any] = {"code": code, "message": message}
    # The SDK puts in the id of the request that this answers.
    error = {"jsonrpc": "2.0", "id": None, "error": said | ({"data": data} if data else {})}
    return httpx2.Response(503, json=error)


def _innermost(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
