"""Who and what gets through to the tools: hosts, origins, tokens, sizes and how many at once.

Belongs here: refusing a request, before anything of it is understood. Does not belong here: TLS
(`certificates.py`) and what happens in a call (`calls.py`).
"""

import asyncio
import json
import logging
from collections.abc import Mapping

from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT
from opentelemetry import context
from opentelemetry.propagate import extract
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_pipelines.toolservers.shell.exchange import KEY, Exchange
from agent_pipelines.toolservers.shell.metrics import Metrics
from agent_pipelines.toolservers.shell.options import Options
from agent_pipelines.toolservers.shell.tokens import Tokens

_log = logging.getLogger(__name__)

#: W3C Trace Context, where a proxy continues a trace.
_TRACE = (b"traceparent", b"tracestate")

#: Seconds in which the whole body of a request must arrive: one of the largest size needs a
#: hundredth of that in any network that tools are used over.
_BODY_SECONDS = 10.0

#: In an ASGI scope's state: whom the client's certificate names.
PEER = "agent_pipelines.peer"


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
        self._tokens = Tokens(options.token_file) if options.token_file else None
        self._running = 0
        self._arriving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or hand it on, with an `Exchange` in its scope."""
        # Spaces around a value are no part of it (RFC 9110, 5.5); httptools leaves those behind it.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        caller = scope.get("state", {}).get(PEER)
        if self._tokens:
            caller = self._tokens.caller(headers.get(b"authorization", b""))
        refusal = self._not_for_them(headers, caller)
        if refusal is not None:
            await refusal(scope, receive, send)
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
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._body(headers, receive)
        except TimeoutError:
            await self._too_slow()(scope, receive, send)
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
        unread = True

        async def replayed() -> Message:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        async def measured(message: Message) -> None:
            exchange.response_bytes += len(message.get("body", b""))
            await send(message)

        # The SDK joins the trace of a request's `_meta`; without one, the current trace.
        trace = {key.decode(): headers[key].decode("latin-1") for key in _TRACE if key in headers}
        token = context.attach(extract(trace))
        try:
            await self._app(scope, replayed, measured)
        finally:
            context.detach(token)
            exchange.close(self._metrics)

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None: it is too large, whether its length was announced or not."""
        announced = headers.get(b"content-length", b"0")
        limit = self._options.max_request_bytes
        if announced.isdigit() and int(announced) > limit:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > limit:
                return None
            # A client that has gone leaves what it sent, which is no JSON.
            if message["type"] != "http.request" or not message.get("more_body", False):
                return bytes(body)

    def _not_for_them(self, headers: Mapping[bytes, bytes], caller: str | None) -> Response | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not _allowed(host, self._options.allowed_hosts):
            return self._refused(
                "host", 421, f"Host {host!r} is not one of this server's; see TOOLS_ALLOWED_HOSTS"
            )
        # Only browsers send one.
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not _allowed(origin, self._options.allowed_origins):
            return self._refused(
                "origin", 403, f"Origin {origin!r} may not call; see TOOLS_ALLOWED_ORIGINS"
            )
        if self._tokens and caller is None:
            given = b"authorization" in headers
            return self._refused(
                "token",
                401,
                "the bearer token is not known here" if given else "a bearer token is missing",
                {"WWW-Authenticate": 'Bearer error="invalid_token"' if given else "Bearer"},
            )
        return None

    def _refused(
        self, reason: str, status: int, said: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        self._count(reason, said)
        return PlainTextResponse(f"{said}\n", status_code=status, headers=headers)

    def _too_large(self) -> Response:
        limit = self._options.max_request_bytes
        said = f"the request is larger than {limit} bytes: send less"
        self._count("size", said)
        return _json_rpc(413, INVALID_REQUEST, said)

    def _too_slow(self) -> Response:
        said = f"the request did not arrive within {_BODY_SECONDS:g} s: send it at once"
        self._count("slow", said)
        return _json_rpc(408, REQUEST_TIMEOUT, said, {"Connection": "close"})

    def _busy(self, what: str) -> Response:
        said = f"busy: {self._options.max_concurrent} requests are {what}; try again in 1 s"
        self._count("busy", said)
        return _json_rpc(503, CONNECTION_CLOSED, said, {"Retry-After": "1"})

    def _count(self, reason: str, said: str) -> None:
        self._metrics.refused.labels(reason).inc()
        _log.warning("refused: %s", said, extra={"reason": reason})


def _json_rpc(
    status: int, code: int, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    # Whoever asked puts in the id of the request that this answers.
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return Response(
        json.dumps(error), status_code=status, headers=headers, media_type="application/json"
    )


def _allowed(value: str, patterns: tuple[str, ...]) -> bool:
    """Whether a Host or an Origin is one of ``patterns``; `:*` at the end of one: any port."""
    for pattern in patterns:
        bare = pattern.removesuffix(":*")
        if value == bare or (bare != pattern and _with_port(value, bare)):
            return True
    return False


def _with_port(value: str, bare: str) -> bool:
    name, _, port = value.rpartition(":")
    return name == bare and port.isdigit()
