"""The conformance suite's fixtures on our own shell; run as a program: PORT PROBES_PORT [streams].

Belongs here: the two builds. As it is shipped, the shell answers in JSON and keeps no sessions. The
suite's scenarios in which the server asks the client need both, so `streams` builds it with them;
nothing but this file can.
"""

import asyncio
import sys
from typing import Any

from mcp.server import MCPServer
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import (
    EmptyResult,
    JSONRPCMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from starlette.applications import Starlette

from agent_pipelines.toolservers.shell import Options, serve
from tests.conformance import fixtures

#: After how long a client comes back to a stream that was closed.
_RETRY_MILLISECONDS = 100


class Events(EventStore):
    """Everything that was sent on every stream, for clients that come back."""

    def __init__(self) -> None:
        self._sent: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._sent.append((stream_id, message))
        return str(len(self._sent))

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        stream, _ = self._sent[int(last_event_id) - 1]
        for number, (of, message) in enumerate(self._sent, start=1):
            if of == stream and number > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Streaming(MCPServer):
    """Streams and keeps sessions, whatever the shell asks for."""

    def streamable_http_app(self, **options: Any) -> Starlette:
        sessions = {
            "json_response": False,
            "stateless_http": False,
            "event_store": Events(),
            "retry_interval": _RETRY_MILLISECONDS,
        }
        return super().streamable_http_app(**{**options, **sessions})


def build(kind: type[MCPServer]) -> MCPServer:
    """A server with all that the suite asks for."""
    server = kind("conformance", version="1", log_level="WARNING", tools=[fixtures.schema_tool()])
    fixtures.build(server)
    _old_requests(server)
    return server


def _old_requests(server: MCPServer) -> None:
    """Requests of the era with a handshake, which the SDK's server has no decorators for."""

    async def accept(_ctx: ServerRequestContext[Any, Any], _params: Any) -> EmptyResult:
        return EmptyResult()

    for method, params in (
        ("logging/setLevel", SetLevelRequestParams),
        ("resources/subscribe", SubscribeRequestParams),
        ("resources/unsubscribe", UnsubscribeRequestParams),
    ):
        server._lowlevel_server.add_request_handler(method, params, accept)


async def _ready() -> None:
    return None


if __name__ == "__main__":
    port, probes_port, *streams = sys.argv[1:]
    server = build(Streaming if streams else MCPServer)
    ports = {"port": int(port), "probes_port": int(probes_port)}
    asyncio.run(serve(server, ready=_ready, options=Options.from_environment(**ports)))
