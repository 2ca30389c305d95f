"""One MCP session over streamable HTTP, and the line between an outage and a tool's own error.

Belongs here: the client, shared by all tasks of a worker. Does not belong here: its configuration
(`tools.py`) or what a failure leads to (`agents`).
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, PARSE_ERROR, REQUEST_TIMEOUT, TextContent
from pydantic import ValidationError

from agent_pipelines.agents.tools import ToolInfo, ToolResult, ToolSession, ToolTransportError

#: JSON-RPC errors that no tool gave. All others are answers of a server that is well.
_TRANSPORT_CODES = (CONNECTION_CLOSED, REQUEST_TIMEOUT, PARSE_ERROR)

#: Connections kept open between calls.
_KEPT_OPEN = 64


@asynccontextmanager
async def open_session(
    url: str, *, connect_timeout: float, call_timeout: float
) -> AsyncIterator[ToolSession]:
    """A session with the server at ``url``.

    Raises:
        ToolTransportError: it does not answer.
    """
    # How many calls run at once is the batch's to decide, not a pool's.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_KEPT_OPEN)
    async with httpx2.AsyncClient(
        timeout=httpx2.Timeout(call_timeout, connect=connect_timeout),
        transport=OutageAsAnswer(httpx2.AsyncHTTPTransport(verify=_trusted(), limits=limits)),
    ) as http:
        client = Client(
            streamable_http_client(url, http_client=http),
            read_timeout_seconds=call_timeout,
            mode="auto",
        )
        connected, done = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(_hold(client, connected, done))
        waiter = asyncio.create_task(connected.wait())
        try:
            await asyncio.wait({holder, waiter}, return_when=asyncio.FIRST_COMPLETED)
            if holder.done():
                error = holder.exception()
                raise ToolTransportError(f"{url}: {_innermost(error)}") from error
            yield _Session(client, url)
        finally:
            waiter.cancel()
            done.set()
            if not connected.is_set():
                # Whoever asked has given up; a server that hangs would be waited for in vain.
                holder.cancel()
            await asyncio.wait({holder})


@cache
def _trusted() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than all the rest of connecting."""
    return httpx2.create_ssl_context()


async def _hold(client: Client, connected: asyncio.Event, done: asyncio.Event) -> None:
    """Keeps the client in a task of its own.

    Its task groups wrap every exception of the block they surround in an ExceptionGroup; here
    that block is this function, not the caller's.
    """
    async with client:
        connected.set()
        await done.wait()


class OutageAsAnswer(httpx2.AsyncBaseTransport):
    """Turns a failed HTTP exchange into a JSON-RPC error that answers its one request.

    Left to itself the SDK ends the whole session, and with it every other task's call, when one
    request cannot be sent or its response breaks off.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; whatever goes wrong on the way comes back as a response."""
        try:
            response = await self._inner.handle_async_request(request)
            json_body = response.headers.get("content-type", "").startswith("application/json")
            if json_body or response.is_error:
                # Read here, where a response that breaks off can still be answered for.
                await response.aread()
        except httpx2.TimeoutException as error:
            return _error(REQUEST_TIMEOUT, f"{type(error).__name__}: no answer in time")
        except httpx2.TransportError as error:
            # Some, like a refused client certificate, come without a message.
            return _error(CONNECTION_CLOSED, f"{type(error).__name__}: {error}".rstrip(": "))
        # 404 has a meaning to the SDK: an unknown method or session.
        if response.is_error and not json_body and response.status_code != 404:
            said = response.text[:200].strip()
            return _error(CONNECTION_CLOSED, f"HTTP {response.status_code}: {said}")
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _Session:
    """Implements `ToolSession`."""

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self._url = url

    async def list_tools(self) -> Sequence[ToolInfo]:
        tools: list[ToolInfo] = []
        cursor: str | None = None
        while True:
            try:
                page = await self._client.list_tools(cursor=cursor)
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
                return tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        try:
            result = await self._client.call_tool(name, dict(arguments))
        except MCPError as error:
            if error.code in _TRANSPORT_CODES:
                raise ToolTransportError(f"{self._url}: {error}") from error
            return ToolResult(True, str(error))
        except ValidationError as error:
            # Not a tool result by any protocol version: as good as no answer.
            raise ToolTransportError(f"{self._url}: not a tool result: {error}") from error
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        return ToolResult(bool(result.is_error), text, result.structured_content)


def _error(code: int, message: str) -> httpx2.Response:
    # The SDK puts in the id of the request that this answers.
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return httpx2.Response(503, json=error)


def _innermost(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
