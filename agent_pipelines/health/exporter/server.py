"""`/metrics`, `/health` and `/ready` over plain HTTP.

Belongs here: the endpoints and their end. Does not belong here: what they tell.
"""

import socket
from time import monotonic

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent_pipelines.health.exporter.ageing import Bounds
from agent_pipelines.health.exporter.metrics import Readings
from agent_pipelines.health.exporter.worker import Fleet

#: Scrapes under way get this long to finish after SIGTERM.
_DRAIN_SECONDS = 2


def build_app(fleet: Fleet, *, tick_every: float) -> Starlette:
    """The application. Nothing in it waits for anything outside of this process.

    Args:
        fleet: who looks.
        tick_every: seconds between two looks at a subject.
    """
    registry = CollectorRegistry()
    registry.register(Readings(lambda: fleet.seen, lambda: fleet.sequence, tick_every=tick_every))
    patience = Bounds.of(tick_every=tick_every, audit_every=0).tick

    async def health(_request: Request) -> Response:
        if fleet.alive:
            return PlainTextResponse("alive\n")
        return PlainTextResponse("a subject is not looked at any more\n", status_code=503)

    async def ready(_request: Request) -> Response:
        # One that hangs from the start is told as `cannot tell` by then, and keeps nobody waiting.
        began = monotonic() - patience
        waiting = [s.subject for s in fleet.seen if s.ended is None and s.born > began]
        if not waiting:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"not looked at yet: {', '.join(waiting)}\n", status_code=503)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/metrics", metrics, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/ready", ready, methods=["GET"]),
        ]
    )


def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, which is raised again then."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])
