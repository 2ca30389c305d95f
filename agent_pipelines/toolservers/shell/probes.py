"""`/health`, `/ready` and `/metrics`.

Belongs here: what a kubelet and Prometheus ask. Does not belong here: what makes a server ready;
that is handed in.
"""

import asyncio

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent_pipelines.toolservers.server import Readiness

#: A dependency that is slower than this is as good as absent to a kubelet.
_READY_SECONDS = 5.0


def probe_routes(registry: CollectorRegistry, ready: Readiness) -> list[Route]:
    """The three endpoints."""

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
