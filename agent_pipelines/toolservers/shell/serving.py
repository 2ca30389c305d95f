"""A server's process: its sockets, its signals and its end.

Belongs here: uvicorn, and how a drain goes. Does not belong here: what is served (`app.py`).
"""

import asyncio
import logging
import math
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from agent_pipelines.listening import listen
from agent_pipelines.toolservers.server import AnyServer, Readiness
from agent_pipelines.toolservers.shell import logs, tracing
from agent_pipelines.toolservers.shell.app import build_app
from agent_pipelines.toolservers.shell.callers import PEER
from agent_pipelines.toolservers.shell.certificates import Certificates, subject
from agent_pipelines.toolservers.shell.metrics import Metrics
from agent_pipelines.toolservers.shell.options import Options, ServerOptions

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: Longer than any client keeps a connection that it does not use: who closes it is never a race.
_KEEP_ALIVE_SECONDS = 75

#: After a drain that does not end by itself, until the process is ended by the kernel.
_GRACE_SECONDS = 5


async def serve(server: AnyServer, *, ready: Readiness, options: Options) -> None:
    """Serve tools until SIGTERM or SIGINT, then let calls in flight finish; a second one ends at
    once.

    Raises:
        UserError: an option cannot be used, or a port is taken; nothing listens then.
    """
    metrics = Metrics()

    def build(ready: Readiness) -> tuple[ASGIApp, ASGIApp]:
        return build_app(server, ready=ready, options=options, metrics=metrics)

    await serve_apps(
        build, name=server.name, ready=ready, registry=metrics.registry, options=options
    )


async def _nothing_to_settle() -> None:
    return


async def serve_apps(
    build: Callable[[Readiness], tuple[ASGIApp, ASGIApp]],
    *,
    name: str,
    ready: Readiness,
    registry: CollectorRegistry,
    options: ServerOptions,
    settle: Callable[[], Awaitable[None]] = _nothing_to_settle,
) -> None:
    """Serve an application, and its probes, as `serve` serves tools.

    Args:
        build: makes both, with what tells whether they are ready.
        name: of the service, in traces.
        ready: as long as no drain has begun.
        registry: of the metrics.
        options: how.
        settle: what is done when a drain begins, while new connections are still taken.

    Raises:
        UserError: an option cannot be used, or a port is taken; nothing listens then.
    """
    certificates = (
        Certificates(options.tls, registry, prefix=options.prefix) if options.tls else None
    )
    drain = _Drain(options.drain_seconds, settle)

    async def ready_to_start() -> str | None:
        return "draining" if drain.begun else await ready()

    app, probes = build(ready_to_start)
    main = _Server(_config(app, options, certificates), drain)
    with tracing.exported(name), _listen(options.host, options.port) as listener:
        if options.second_port is None:
            logs.to_stderr()
            await main.serve(sockets=[listener])
            return
        with _listen(options.host, options.second_port) as second:
            logs.to_stderr()
            side = _Server(_config(probes, options, None), None)
            async with asyncio.TaskGroup() as group:
                group.create_task(side.serve(sockets=[second]))
                try:
                    await main.serve(sockets=[listener])
                finally:
                    # Last to go, so that a drain can be watched.
                    side.should_exit = True


class _Drain:
    """Begun by the first signal, and bounded whatever a call may do."""

    def __init__(self, seconds: float, settle: Callable[[], Awaitable[None]]) -> None:
        self._seconds = seconds
        self.settle = settle
        self.begun = False

    def begin(self) -> None:
        self.begun = True
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # A thread that does not come back would keep the process: it cannot be cancelled.
        signal.alarm(math.ceil(self._seconds) + _GRACE_SECONDS)


class _Server(uvicorn.Server):
    """With no drain it leaves the signals to the main server, which ends both."""

    def __init__(self, config: uvicorn.Config, drain: _Drain | None) -> None:
        super().__init__(config)
        self._drain = drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As it was before when it is over: a drained server has done what it was told."""
        if self._drain is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal; the next one is the kernel's to answer."""
        if self._drain is not None:
            self._drain.begin()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what is in flight finish."""
        if self._drain is not None:
            _log.info("draining")
            await self._drain.settle()
        await super().shutdown(sockets)


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Tells the application whom a client's certificate names, which uvicorn does not."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        certificate: dict[str, Any] | None = transport.get_extra_info("peercert")
        if certificate:
            # Copied into the scope of each request of this connection.
            self.app_state = {**self.app_state, PEER: subject(certificate)}


def _config(
    app: ASGIApp, options: ServerOptions, certificates: Certificates | None
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        ssl_context_factory=(lambda *_: certificates.context) if certificates else None,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(options.drain_seconds),
    )


def _listen(host: str, port: int) -> socket.socket:
    return listen(
        host,
        port,
        who="this server",
        remedy="name another with --host, --port and --probes-port",
    )
