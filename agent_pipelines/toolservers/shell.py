"""What every tool server shares: the MCP endpoint, health, readiness, metrics and a clean end.

Belongs here: everything around a tool call. Does not belong here: any tool, or what makes its
server ready; those are handed in.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecuritySettings
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent_pipelines.toolservers.server import AnyServer, has_tool

#: None when what the tools depend on answers, else why not, in words for a person.
Readiness = Callable[[], Awaitable[str | None]]

#: Host headers that a server for this machine only accepts.
LOOPBACK = ("127.0.0.1:*", "localhost:*", "[::1]:*")

#: A dependency that is slower than this is as good as absent to a kubelet.
_READY_SECONDS = 5.0

#: Calls in flight get this long to finish after SIGTERM.
_DRAIN_SECONDS = 20


class ToolMetrics:
    """Counts and times every tool call. A registry of its own: one process may serve several."""

    def __init__(self, server: AnyServer) -> None:
        self.registry = CollectorRegistry()
        self._server = server
        label = ("tool_name",)
        self._calls = Counter(
            "mcp_tool_call", "Tool calls received.", label, registry=self.registry
        )
        self._errors = Counter(
            "mcp_tool_call_errors", "Tool calls that failed.", label, registry=self.registry
        )
        self._seconds = Histogram(
            "mcp_tool_call_duration_seconds",
            "Time from receiving a tool call to its result.",
            label,
            registry=self.registry,
        )

    async def count(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Middleware of the SDK: sees the call before validation, so that no failure escapes."""
        if ctx.method != "tools/call":
            return await call_next(ctx)
        name = await self._label(ctx.params)
        self._calls.labels(name).inc()
        started = time.perf_counter()
        failed = True
        try:
            result = await call_next(ctx)
            # Inside middleware a result has its wire form already.
            failed = isinstance(result, dict) and bool(result.get("isError"))
            return result
        finally:
            self._seconds.labels(name).observe(time.perf_counter() - started)
            if failed:
                self._errors.labels(name).inc()

    async def _label(self, params: Any) -> str:
        """Only names of real tools become label values, else a caller could invent series."""
        name = (params or {}).get("name")
        if isinstance(name, str) and await has_tool(self._server, name):
            return name
        return "unknown"


def build_app(
    server: AnyServer, *, ready: Readiness, allowed_hosts: Sequence[str] = LOOPBACK
) -> tuple[Starlette, Starlette]:
    """The application that serves `/mcp` and the probes, and one that serves the probes alone."""
    metrics = ToolMetrics(server)
    server.middleware.append(metrics.count)
    app = server.streamable_http_app(
        json_response=True,
        # Any replica answers any call.
        stateless_http=True,
        transport_security=TransportSecuritySettings(allowed_hosts=list(allowed_hosts)),
    )
    probes = _probe_routes(metrics.registry, ready)
    app.routes.extend(probes)
    return app, Starlette(routes=probes)


async def serve(
    server: AnyServer,
    *,
    host: str,
    port: int,
    ready: Readiness,
    probes_port: int | None = None,
    allowed_hosts: Sequence[str] = LOOPBACK,
) -> None:
    """Serve until SIGTERM or SIGINT, then let calls in flight finish.

    ``probes_port`` adds a plain second port, for probes that cannot present a client certificate.
    """
    app, probes = build_app(server, ready=ready, allowed_hosts=allowed_hosts)
    main = uvicorn.Server(_config(app, host, port))
    if probes_port is None:
        await main.serve()
        return
    side = _ProbeServer(_config(probes, host, probes_port))
    async with asyncio.TaskGroup() as group:
        group.create_task(side.serve())
        try:
            await main.serve()
        finally:
            # Last to go, so that a drain can be watched.
            side.should_exit = True


class _ProbeServer(uvicorn.Server):
    """Leaves the signals to the server of the tools, which decides when both end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Starlette, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )


def _probe_routes(registry: CollectorRegistry, ready: Readiness) -> list[Route]:
    async def health(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readiness(_request: Request) -> Response:
        reason = await _why_not_ready(ready)
        if reason is None:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"{reason}\n", status_code=503)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/health", health, methods=["GET"]),
        Route("/ready", readiness, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]


async def _why_not_ready(ready: Readiness) -> str | None:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            return await ready()
    except TimeoutError:
        return f"its dependency did not answer within {_READY_SECONDS:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
