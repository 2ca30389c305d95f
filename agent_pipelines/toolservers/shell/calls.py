"""One tool call: counted, timed, and ended when it takes too long or nobody waits for it.

Belongs here: what happens around every call inside of the SDK. Does not belong here: HTTP
(`gate.py`).
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, CallToolResult, TextContent
from opentelemetry.trace import get_current_span

from agent_pipelines.toolservers.outcome import OUTAGE
from agent_pipelines.toolservers.server import AnyServer, has_tool
from agent_pipelines.toolservers.shell.exchange import KEY, Exchange, Outcome
from agent_pipelines.toolservers.shell.metrics import Metrics


class Calls:
    """Middleware of the SDK: sees a call before it is validated, so that no failure escapes."""

    def __init__(self, server: AnyServer, metrics: Metrics, *, timeout: float) -> None:
        self._server = server
        self._metrics = metrics
        self._timeout = timeout
        self._known: set[str] = set()

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Let the call through; anything but a tool call uncounted."""
        request: Any = ctx.request
        if request is None:
            return await call_next(ctx)
        exchange: Exchange = request.scope[KEY]
        try:
            # With its own end of time a tool that keeps a thread busy is left alone as well.
            async with asyncio.timeout(None) as limit, exchange.wanted(limit):
                if ctx.method == "tools/call":
                    return await self._counted(ctx, call_next, exchange)
                return await call_next(ctx)
        except TimeoutError:
            if exchange.hung_up:
                raise MCPError(CONNECTION_CLOSED, "the caller has hung up") from None
            raise

    async def _counted(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext, exchange: Exchange
    ) -> HandlerResult:
        name = exchange.tool = await self._label(ctx.params)
        span = get_current_span().get_span_context()
        if span.is_valid:
            exchange.trace_id = f"{span.trace_id:032x}"
        series = self._metrics.of(name)
        series.in_flight.inc()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout) as limit:
                # Inside of middleware a result has its wire form already.
                result = await call_next(ctx)
            exchange.outcome = _outcome(result)
            return result
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                exchange.outcome = "timeout"
                return self._stopped(name)
            exchange.outcome = "error"
            raise
        finally:
            series.in_flight.dec()
            if exchange.outcome == "cancelled":
                series.cancelled.inc()
            else:
                series.calls.inc()
                series.seconds.observe(time.perf_counter() - started)
                if exchange.outcome != "ok":
                    series.errors.inc()

    async def _label(self, params: Mapping[str, Any] | None) -> str:
        """Only names of real tools become label values, else a caller could invent series."""
        name = (params or {}).get("name")
        if not isinstance(name, str):
            return "unknown"
        if name not in self._known:
            if not await has_tool(self._server, name):
                return "unknown"
            self._known.add(name)
        return name

    def _stopped(self, name: str) -> CallToolResult:
        text = (
            f"{name} took longer than {self._timeout:g} s and was stopped; whether it took effect "
            "is not known. Ask for less, or say that it could not be done."
        )
        return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _outcome(result: HandlerResult) -> Outcome:
    if not isinstance(result, dict) or not result.get("isError"):
        return "ok"
    return "outage" if OUTAGE in (result.get("_meta") or {}) else "error"
