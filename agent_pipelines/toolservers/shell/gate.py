"""Who and what gets through to the tools: callers, sizes and how many at once.

Belongs here: refusing a request, before anything of it is understood. Does not belong here: who may
call (`callers.py`), TLS (`certificates.py`) and what happens in a call (`calls.py`).
"""

import json
import logging
from collections.abc import Mapping

from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_pipelines.toolservers.outcome import NOT_SENT
from agent_pipelines.toolservers.shell.body import read_body, replay
from agent_pipelines.toolservers.shell.callers import Callers
from agent_pipelines.toolservers.shell.exchange import KEY, Exchange
from agent_pipelines.toolservers.shell.metrics import Metrics
from agent_pipelines.toolservers.shell.options import Options
from agent_pipelines.toolservers.shell.tracing import joined

_log = logging.getLogger(__name__)


class Gate:
    """ASGI around the MCP endpoint; every refusal is counted and says what to do about it.

    Who may not call gets plain text. A request that is too large, too slow, or one too many, gets
    JSON-RPC: its error reaches whoever waits for that call, and leaves the others of a session
    alone.
    """

    def __init__(
        self, app: ASGIApp, options: Options, metrics: Metrics, *, stateless: bool
    ) -> None:
        self._app = app
        self._stateless = stateless
        self._options = options
        self._metrics = metrics
        self._callers = Callers(options)
        self._running = 0
        self._arriving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or hand it on, with an `Exchange` in its scope."""
        # Spaces around a value are no part of it (RFC 9110, 5.5); httptools leaves those behind it.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        caller = self._callers.who(scope, headers)
        refusal = self._callers.refusal(headers, caller)
        if refusal is not None:
            self._count(refusal.reason, refusal.said)
            said = PlainTextResponse(f"{refusal.said}\n", refusal.status, refusal.headers)
            await said(scope, receive, send)
            return
        if scope["method"] != "POST":
            if self._stateless:
                # A stream that nothing will ever be sent on, or the end of no session.
                only_post = Response(status_code=405, headers={"Allow": "POST"})
                await only_post(scope, receive, send)
                return
            scope[KEY] = Exchange(caller, 0)
            await self._app(scope, receive, send)
            return
        if self._arriving >= self._options.max_concurrent:
            await self._busy("arriving")(scope, receive, send)
            return
        self._arriving += 1
        try:
            body = await read_body(headers, receive, self._options.max_request_bytes)
        except TimeoutError as error:
            await self._too_slow(error)(scope, receive, send)
            return
        finally:
            self._arriving -= 1
        if body is None:
            await self._too_large()(scope, receive, send)
        elif self._running >= self._options.max_concurrent:
            # After reading it: whoever is slow to send takes no place of a call.
            await self._busy("running")(scope, receive, send)
        else:
            self._running += 1
            try:
                await self._run(scope, headers, Exchange(caller, len(body)), body, receive, send)
            finally:
                self._running -= 1

    async def _run(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        exchange: Exchange,
        body: bytes,
        receive: Receive,
        send: Send,
    ) -> None:
        scope[KEY] = exchange
        if self._stateless:
            exchange.receive = receive

        async def measured(message: Message) -> None:
            exchange.response_bytes += len(message.get("body", b""))
            await send(message)

        try:
            # The SDK joins the trace of a request's `_meta`; without one, the current trace.
            with joined(headers):
                await self._app(scope, replay(body, receive), measured)
        finally:
            exchange.close(self._metrics)

    def _too_large(self) -> Response:
        limit = self._options.max_request_bytes
        said = f"the request is larger than {limit} bytes: send less"
        self._count("size", said)
        return _json_rpc(413, INVALID_REQUEST, said)

    def _too_slow(self, error: TimeoutError) -> Response:
        said = f"{error}: send it at once"
        self._count("slow", said)
        return _json_rpc(408, REQUEST_TIMEOUT, said, {"Connection": "close"}, data=NOT_SENT)

    def _busy(self, what: str) -> Response:
        said = f"busy: {self._options.max_concurrent} requests are {what}; try again in 1 s"
        self._count("busy", said)
        return _json_rpc(503, CONNECTION_CLOSED, said, {"Retry-After": "1"}, data=NOT_SENT)

    def _count(self, reason: str, said: str) -> None:
        self._metrics.refused.labels(reason).inc()
        _log.warning("refused: %s", said, extra={"reason": reason})


def _json_rpc(
    status: int,
    code: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    data: str | None = None,
) -> Response:
    error = {"code": code, "message": message} | ({"data": data} if data else {})
    # Whoever asked puts in the id of the request that this answers.
    said = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
    return Response(said, status_code=status, headers=headers, media_type="application/json")
