"""Results that do not say of which type they are.

Belongs here: taking them for complete. Does not belong here: the session (`tool_session.py`).

A server of protocol 2026-07-28 must say `resultType`; one of an older protocol cannot, and clients
must take its results for complete (2026-07-28, basic, "Responses"). SDKs were published that speak
the new one and leave it out (modelcontextprotocol/csharp-sdk#1676, go-sdk#1032). What such a server
was asked for is done: taken for a transport failure it would be asked for again.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCResponse


@asynccontextmanager
async def typed(transport: AbstractAsyncContextManager[Any]) -> AsyncIterator[tuple[Any, Any]]:
    """The same transport, all results of which say their type."""
    async with transport as (read, write):
        yield _Typed(read), write


class _Typed:
    """A stream of the SDK's transports (`ReadStream`)."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return _with_type(await self._inner.__anext__())

    async def receive(self) -> SessionMessage | Exception:
        return _with_type(await self._inner.receive())

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        ended: bool | None = await self._inner.__aexit__(kind, error, trace)
        return ended


def _with_type(item: SessionMessage | Exception) -> SessionMessage | Exception:
    if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCResponse):
        item.message.result.setdefault("resultType", "complete")
    return item
